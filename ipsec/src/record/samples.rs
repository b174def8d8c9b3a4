//! Records for tests.

use super::*;
use crate::policy::Identity;

pub fn record(segment: u8) -> IkeRecord {
    let spi = Spi((u64::from(segment) << 56) | 0x1234_5678);
    let secret = |octet: u8, len: usize| Secret::from(vec![octet; len]);
    IkeRecord {
        spi,
        peer_spi: Spi(0xfeed_0001),
        initiator: Side::Peer,
        connection: "staff".into(),
        local_id: Identity::parse("gw.example.org"),
        peer_id: Identity::parse("anna@example.org"),
        path: Path {
            local: "192.0.2.1:4500".parse().unwrap(),
            peer: "198.51.100.7:4500".parse().unwrap(),
            peer_behind_nat: true,
            we_behind_nat: false,
        },
        suite: IkeSuite { protection: aes256(), prf: Prf::HmacSha384, group: Group::Ecp384 },
        keys: IkeKeys {
            d: secret(1, 48),
            ai: secret(0, 0),
            ar: secret(0, 0),
            ei: secret(4, 36),
            er: secret(5, 36),
            pi: secret(6, 48),
            pr: secret(7, 48),
        },
        established_at: Millis(1_700_000_000_000),
        revision: Revision(4),
        phase: Phase::Established,
        next_request: MessageId(3),
        outstanding: None,
        expected: MessageId(2),
        last_reply: Some(Reply { message_id: MessageId(1), octets: vec![0xaa; 80] }),
        children: vec![child(segment)],
        inner_addresses: vec!["10.99.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
        peer_supports: PeerSupports { tfc_padding: true, non_first_fragments: false },
    }
}

pub fn child(segment: u8) -> ChildRecord {
    let secret = |octet: u8| Secret::from(vec![octet; 36]);
    ChildRecord {
        name: "net".into(),
        spi_in: ChildSpi((u32::from(segment) << 24) | 0x1001),
        spi_out: ChildSpi(0xc000_0001),
        suite: EspSuite { protection: aes256(), esn: true, group: Some(Group::Curve25519) },
        keys: ChildKeys {
            encr_in: secret(1),
            integ_in: Secret::from(vec![]),
            encr_out: secret(2),
            integ_out: Secret::from(vec![]),
        },
        local_ts: vec![Selector::addresses("10.10.0.0".parse().unwrap(), "10.10.0.255".parse().unwrap())],
        remote_ts: vec![Selector::host("10.99.0.2".parse().unwrap())],
        established_at: Millis(1_700_000_000_000),
        phase: ChildPhase::Live,
        initiator: Side::Peer,
        replaces: None,
        block: Block { epoch: Epoch(2), first: EspSeq(10_001), last: EspSeq(20_000) },
        granted: EspSeq(20_000),
        claimed: None,
    }
}

pub fn child_rekey() -> Outstanding {
    let rekey = ChildRekey {
        old_spi_in: ChildSpi(0x0100_1001),
        new_spi_in: ChildSpi(0x0100_1002),
        nonce: vec![3; 32],
        private: Some((Group::Ecp256, Secret::from(vec![9; 32]))),
        crossed: Some((vec![1; 32], ChildSpi(0x0100_1003))),
    };
    Outstanding {
        message_id: MessageId(3),
        octets: vec![1; 90],
        purpose: Purpose::RekeyChild(Box::new(rekey)),
    }
}

pub fn ike_rekey() -> Outstanding {
    let rekey = IkeRekey {
        new_spi: Spi(0x0100_0000_0000_0009),
        nonce: vec![3; 32],
        private: (Group::Modp2048, Secret::from(vec![9; 256])),
        crossed: None,
    };
    Outstanding { message_id: MessageId(3), octets: vec![1; 90], purpose: Purpose::RekeyIke(Box::new(rekey)) }
}

fn aes256() -> Protection {
    Protection::new(crypto::cipher::Cipher::AesGcm256, None).unwrap()
}
