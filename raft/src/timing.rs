//! Raft's times, by profile. Plain data: `config show` prints them.
//!
//! `election_max` is also the leader's lease. From the crash of a leader to a campaign it takes `election_max +
//! election_min - heartbeat` to `2 * election_max`, and a tick more. Safety depends on none of this.

use std::time::Duration;

/// Times of one profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub profile: &'static str,
    /// How often the leader shows itself.
    pub heartbeat: Duration,
    /// A follower waits a random time between these two after the lease of the leader has run out.
    pub election_min: Duration,
    pub election_max: Duration,
    /// How long a proposal may take before its outcome counts as unknown.
    pub proposal: Duration,
}

/// One network, round trips below 5 ms.
pub const LAN: Timing = Timing {
    profile: "lan",
    heartbeat: Duration::from_millis(25),
    election_min: Duration::from_millis(75),
    election_max: Duration::from_millis(125),
    proposal: Duration::from_secs(5),
};

/// Several sites, round trips up to 100 ms.
pub const WAN: Timing = Timing {
    profile: "wan",
    heartbeat: Duration::from_millis(150),
    election_min: Duration::from_millis(600),
    election_max: Duration::from_millis(1_000),
    proposal: Duration::from_secs(15),
};

/// Several nodes on one small and busy machine.
pub const CI: Timing = Timing {
    profile: "ci",
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(200),
    election_max: Duration::from_millis(400),
    proposal: Duration::from_secs(10),
};

pub const PROFILES: [Timing; 3] = [LAN, WAN, CI];

impl Timing {
    /// How long a leader without a quorum falls silent before it tries again, so that a connected majority can elect
    /// another one: at least the lease and one more election timeout.
    pub fn quorum_loss_probe(&self) -> Duration {
        2 * self.election_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_leaves_room_for_a_lost_heartbeat() {
        for timing in PROFILES {
            assert!(timing.election_min >= 3 * timing.heartbeat, "{}", timing.profile);
            assert!(timing.election_max > timing.election_min, "{}", timing.profile);
            assert!(timing.proposal > 4 * timing.election_max, "{}", timing.profile);
        }
    }
}
