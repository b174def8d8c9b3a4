//! Octets that earlier versions wrote must be read for ever: one file for each command, one for a snapshot.
//!
//! `PONTOON_WRITE_GOLDEN=1 cargo test -p raft golden` writes the files that are missing; it never changes one.

use std::path::PathBuf;

use ipsec::record::{Outstanding, Purpose, Why};

use super::*;

/// Every kind of command, with no field left at its default.
fn commands() -> Vec<(&'static str, Command)> {
    let guard = Guard { segment: SEG, epoch: Epoch(3), incarnation: RUN_A };
    let mut established = record(spi(SEG, 1), "alice@example.org", &["10.99.0.1", "2001:db8::1"]);
    established.children = vec![a_child(child_spi(SEG, 1))];
    let outstanding =
        Outstanding { message_id: MessageId(4), octets: vec![6; 40], purpose: Purpose::DeleteIke };
    let change = Change {
        guard,
        spi: spi(SEG, 1),
        revision: Revision(9),
        at: Millis(77),
        steps: vec![
            Step::Supersede { spi: spi(SEG, 2), silently: true },
            Step::Establish(Box::new(established)),
            Step::Answered { message_id: MessageId(2), octets: vec![1, 2, 3] },
            Step::Asked(Box::new(outstanding)),
            Step::RemoveChild { spi_in: child_spi(SEG, 1), why: Why::Expired },
            Step::SetPhase(Phase::Closing { why: Why::Terminated }),
        ],
    };
    let Command::Assign(assign) = assign(vec![(SEG, Epoch(2)), (Segment(255), Epoch(0))], A, RUN_A) else {
        panic!("an assignment")
    };
    let takeover = Takeover {
        from: Owner { node: NodeId(5), incarnation: RUN_B },
        standing: 2,
        promisers: vec![(A, RUN_A), (NodeId(9), Incarnation(0xc1))],
        silent_ms: 57,
    };
    vec![
        ("create-cluster", create()),
        (
            "add-member",
            Command::AddMember(AddMember { replaces: Some(NodeId(5)), ..add_with("edge-2", OPEN) }),
        ),
        ("incarnate", start_after(RUN_A, NodeId(5), RUN_B)),
        ("remove-member", Command::RemoveMember { node: NodeId(5) }),
        ("assign", Command::Assign(Assign { standby: Some(NodeId(5)), takeover: Some(takeover), ..assign })),
        ("pardon", Command::Pardon(Pardon { node: NodeId(5), standing: 3 })),
        (
            "set-standby",
            Command::SetStandby(SetStandby {
                segments: vec![(SEG, Epoch(2)), (Segment(8), Epoch(1))],
                standby: Some(NodeId(5)),
            }),
        ),
        ("set-cut-off", Command::SetCutOff { node: NodeId(5), incarnation: RUN_B, cut_off: true }),
        ("set-draining", Command::SetDraining { node: NodeId(5), draining: Draining::UntilUndrain }),
        ("sa", Command::Sa(change)),
        ("reserve", reserve(guard, spi(SEG, 1), child_spi(SEG, 1), 123_456)),
        ("configure", configure(3, "version = 1\n")),
        ("rotate-cookie-secret", rotate(3, 0x5a)),
        ("set-cluster-version", Command::SetClusterVersion(2)),
        ("create-token", token(OPEN, Suffrage::Learner, 3, 9_000)),
        ("set-suffrage", Command::SetSuffrage { node: NodeId(5), suffrage: Suffrage::Learner }),
    ]
}

/// A state with something in each table.
fn state() -> State {
    let (mut world, b) = World::with_b();
    world.establish(spi(SEG, 1), child_spi(SEG, 1), "alice", &["10.99.0.1", "2001:db8::1"]);
    world.establish(spi(SEG, 2), child_spi(SEG, 2), "bob@example.org", &["10.99.0.2"]);
    let command = world.sa(spi(SEG, 2), vec![Step::Remove { why: Why::PeerDeleted }]);
    world.done(command);
    let Command::Assign(plain) = assign(vec![(SEG, Epoch(1))], b, RUN_B) else { panic!("an assignment") };
    let from = Owner { node: A, incarnation: RUN_A };
    let takeover = Takeover { from, standing: 0, promisers: vec![(b, RUN_B)], silent_ms: 57 };
    world.done(Command::Assign(Assign { takeover: Some(takeover), ..plain }));
    world.done(Command::SetStandby(SetStandby { segments: vec![(SEG, Epoch(2))], standby: Some(A) }));
    world.done(Command::SetDraining { node: b, draining: Draining::UntilStart });
    world.done(Command::Pardon(Pardon { node: A, standing: 0 }));
    world.done(configure(0, "version = 1\n"));
    world.done(configure(1, "version = 1 # again\n"));
    world.done(rotate(0, 1));
    world.done(rotate(1, 2));
    world.state
}

/// The octets of a golden file, which is written first if it is missing and this is asked for.
fn golden(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("PONTOON_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, now).expect("the file can be written");
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn golden_commands() {
    for (name, command) in commands() {
        assert_eq!(command.kind(), name);
        let octets = golden(&format!("command-{name}.v1.bin"), &command.encode());
        assert_eq!(Command::decode(&octets), Ok(command.clone()), "{name}: an old log is read");
        assert_eq!(command.encode(), octets, "{name}: version 1 is written as it always was");
    }
}

#[test]
fn golden_snapshot() {
    let state = state();
    let mut now = Vec::new();
    state.encode_snapshot(&mut now).expect("a vector takes all");
    let octets = golden("snapshot.v1.bin", &now);
    let old = State::decode_snapshot(&mut octets.as_slice()).expect("an old snapshot is read");
    assert_eq!(old.digest(), state.digest());
    assert_eq!(old.applied(), state.applied());
    assert_eq!(now, octets, "version 1 is written as it always was");
}

#[test]
fn what_is_not_known_is_an_error() {
    let octets = Command::SetClusterVersion(2).encode();
    let refused = |octets: &[u8]| Command::decode(octets).expect_err("not known here");
    assert_eq!(refused(&[]), DecodeError::Format(None));
    assert_eq!(refused(&[&[2], &octets[1..]].concat()), DecodeError::Format(Some(2)));
    assert_eq!(refused(&octets[..1]), DecodeError::Unknown, "no command at all");
    // Field 15, a length of one: a command of the future.
    assert_eq!(refused(&[1, 0x7a, 1, 0]), DecodeError::Unknown);
    // A known command with a field of the future behind it, or in it.
    assert_eq!(refused(&[&octets[..], &[0x7a, 1, 0]].concat()), DecodeError::Unknown);
    let add = Command::RemoveMember { node: NodeId(5) }.encode();
    assert_eq!(refused(&[&add[..], &octets[1..]].concat()), DecodeError::Unknown, "two commands in one");
    assert!(matches!(refused(&[1, 0x2a, 0x02, 0x28, 0x63]), DecodeError::Malformed(_)), "cause 99");
}
