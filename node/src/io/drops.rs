//! Why the IO layer threw something away: an enum, so that it is a metric label and a test assertion.

/// One reason. Counted per datagram, or per inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// Received: longer than the 64 KiB that a datagram can have, so the rest was cut off; or more datagrams in one
    /// aggregate than any kernel collects.
    Oversized,
    /// Received: the kernel cut off the control data, so the size of the aggregated datagrams is unknown.
    ControlTruncated,
    /// Received: no payload.
    Empty,
    /// Received on a raw socket: not a whole IPv4 header.
    BadHeader,
    /// Received: from an address that is none, or from port 0.
    BadSource,
    /// Lost in the kernel because the receive buffer was full.
    ReceiveQueue,
    /// Not sent: the send buffer stayed full.
    SendQueue,
    /// Not sent: no route to the peer.
    Unreachable,
    /// Not sent: the local firewall refused it.
    Refused,
    /// Not sent: too large for the path or for the protocol.
    TooLarge,
    /// Not sent: any other error of the system call.
    SendFailed,
    /// The device handed over something that is not an IP packet with a consistent offload header.
    BadSuperPacket,
    /// The device did not take the packet.
    DeviceRefused,
}

impl Drop {
    pub const ALL: [Drop; 13] = [
        Drop::Oversized,
        Drop::ControlTruncated,
        Drop::Empty,
        Drop::BadHeader,
        Drop::BadSource,
        Drop::ReceiveQueue,
        Drop::SendQueue,
        Drop::Unreachable,
        Drop::Refused,
        Drop::TooLarge,
        Drop::SendFailed,
        Drop::BadSuperPacket,
        Drop::DeviceRefused,
    ];

    /// The label in metrics and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Drop::Oversized => "oversized",
            Drop::ControlTruncated => "control_truncated",
            Drop::Empty => "empty",
            Drop::BadHeader => "bad_header",
            Drop::BadSource => "bad_source",
            Drop::ReceiveQueue => "receive_queue",
            Drop::SendQueue => "send_queue",
            Drop::Unreachable => "unreachable",
            Drop::Refused => "refused",
            Drop::TooLarge => "too_large",
            Drop::SendFailed => "send_failed",
            Drop::BadSuperPacket => "bad_super_packet",
            Drop::DeviceRefused => "device_refused",
        }
    }
}

/// A counter for each reason: plain integers of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; Drop::ALL.len()]);

impl Drops {
    pub fn count(&mut self, reason: Drop, number: u64) {
        self.0[reason as usize] = self.0[reason as usize].wrapping_add(number);
    }

    pub fn get(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, number| sum.wrapping_add(*number))
    }

    /// Every reason with its number, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// Adds the numbers of another worker or socket.
    pub fn merge(&mut self, other: &Drops) {
        for (reason, number) in other.iter() {
            self.count(reason, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        let mut drops = Drops::default();
        let mut labels = Vec::new();
        for (at, reason) in Drop::ALL.into_iter().enumerate() {
            drops.count(reason, at as u64 + 1);
            labels.push(reason.as_str());
        }
        for (at, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(drops.get(reason), at as u64 + 1, "{reason:?}");
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Drop::ALL.len());
        assert_eq!(drops.total(), (1..=Drop::ALL.len() as u64).sum::<u64>());
        let copy = drops;
        drops.merge(&copy);
        assert_eq!(drops.get(Drop::Empty), 2 * copy.get(Drop::Empty));
    }
}
