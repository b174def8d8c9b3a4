//! Tells systemd that this process lives, as long as all of it does (sd_watchdog_enabled(3)).
//!
//! ```text
//!   control runtime (here) ─> raft runtime ─> every packet worker, in its turn ─> probes go out ─> WATCHDOG=1
//! ```
//!
//! A process that hangs in part is worse than one that has ended: the others take over from both, but only the latter
//! comes back. When one of these does not answer nothing is told, and systemd ends the process (`WatchdogSec=`).

use std::ffi::OsString;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::datapath::{Handle, Order, Stopped};
use crate::lookout::Lookout;
use crate::observe::systemd;
use crate::runtime::RaftRuntime;

/// What systemd asks for, if it does: a sign of life at least this often.
pub fn asked_for() -> Option<Duration> {
    let variable = |name| std::env::var_os(name);
    read(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id())
}

fn read(usec: Option<OsString>, pid: Option<OsString>, own: u32) -> Option<Duration> {
    let number = |text: OsString| text.to_str()?.parse::<u64>().ok();
    // Meant for another process, whose environment we have.
    if pid.is_some_and(|pid| number(pid) != Some(own.into())) {
        return None;
    }
    usec.and_then(number).filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// Until the workers are gone, with which the process ends.
pub async fn keep(within: Duration, worker: Handle, raft: RaftRuntime, lookout: Lookout) {
    let mut turn = tokio::time::interval(within / 2);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = 0;
    loop {
        turn.tick().await;
        // None go out before this node is a member.
        let before = std::mem::replace(&mut rounds, lookout.rounds());
        if before > 0 && before == rounds {
            continue;
        }
        if all_take_their_turn(&worker, &raft).await.is_err() {
            return;
        }
        systemd::notify("WATCHDOG=1");
    }
}

/// Returns when each has answered, be it never.
async fn all_take_their_turn(worker: &Handle, raft: &RaftRuntime) -> Result<(), Stopped> {
    raft.run(async {}).await;
    let mut answers = Vec::new();
    let order = |_| {
        let (taken, answer) = oneshot::channel();
        answers.push(answer);
        vec![Order::Turn(taken)]
    };
    worker.tell_each(order).await?;
    for answer in answers {
        answer.await.map_err(|_| Stopped)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::{self, SeenByAll, Worker};
    use crate::io::Offload;
    use crate::io::fake::FakeInside;

    #[test]
    fn systemd_is_told_only_when_it_asks_this_process() {
        let read = |usec: Option<&str>, pid: Option<&str>| read(usec.map(Into::into), pid.map(Into::into), 7);
        assert_eq!(read(Some("5000000"), Some("7")), Some(Duration::from_secs(5)));
        assert_eq!(read(Some("5000000"), None), Some(Duration::from_secs(5)));
        for (usec, pid) in
            [(None, Some("7")), (Some("5000000"), Some("8")), (Some("0"), None), (Some("x"), None)]
        {
            assert_eq!(read(usec, pid), None, "{usec:?} {pid:?}");
        }
        assert_eq!(read(Some("5"), Some("not a number")), None);
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_gives_no_sign_of_life() {
        let (inside, _hand) = FakeInside::new(Offload::default());
        let worker =
            Worker { ports: Vec::new(), inside: Box::new(inside), seen_by_all: SeenByAll::default() };
        let (handle, reports, _threads) = datapath::start(vec![worker]).unwrap();
        let runtime = crate::runtime::build("raft", Some(1)).unwrap();
        let raft = RaftRuntime::of(&runtime);
        assert_eq!(all_take_their_turn(&handle, &raft).await, Ok(()));
        assert_eq!(all_take_their_turn(&handle, &raft).await, Ok(()));
        // A runtime whose only thread hangs.
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move { hangs.recv() });
        let hung = tokio::time::timeout(Duration::from_millis(50), all_take_their_turn(&handle, &raft));
        assert!(hung.await.is_err(), "nothing is told while it hangs");
        drop((release, reports));
        runtime.shutdown_background();
    }
}
