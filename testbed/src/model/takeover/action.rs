//! The steps, and how a run is told.

use std::fmt;

use super::super::log::Node;
use super::Bounds;
use super::state::{About, Command, SEGMENTS};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Tick,
    Acknowledge(Node),
    Refuse(Node),
    Receive(Node),
    Promise(Node, About),
    Commit(Command),
    Apply(Node),
    Crash(Node),
    Start(Node),
    Close(usize),
    Reopen(usize),
    Elect(Node),
    StepDown(Node),
    Check(usize),
    Write,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: Node| ["the owner", "voter 1", "voter 2"][node];
        match *self {
            Action::Tick => write!(f, "time passes"),
            Action::Acknowledge(voter) => write!(f, "{} acknowledges a probe of the owner", name(voter)),
            Action::Refuse(voter) => write!(f, "{} answers a probe, but does not lead", name(voter)),
            Action::Receive(voter) => write!(f, "the owner hears {}'s acknowledgement", name(voter)),
            Action::Promise(node, About { incarnation, standing }) => {
                write!(f, "{} promises about process {incarnation}, standing {standing}", name(node))
            }
            Action::Commit(Command::Take(segment)) => {
                write!(f, "commit: segment {segment} taken from the owner")
            }
            Action::Commit(Command::Move(segment)) => write!(f, "commit: segment {segment} moved as planned"),
            Action::Commit(Command::Give(segment)) => {
                write!(f, "commit: segment {segment} given to the owner")
            }
            Action::Commit(Command::Pardon) => write!(f, "commit: the owner pardoned"),
            Action::Commit(Command::Incarnate(node, incarnation)) => {
                write!(f, "commit: process {incarnation} of {} runs", name(node))
            }
            Action::Apply(node) => write!(f, "{} applies what it had not yet", name(node)),
            Action::Crash(node) => write!(f, "{} crashes", name(node)),
            Action::Start(node) => write!(f, "{} starts again", name(node)),
            Action::Close(segment) => write!(f, "the owner closes segment {segment} for a move"),
            Action::Reopen(segment) => write!(f, "the owner opens segment {segment} again"),
            Action::Elect(voter) => write!(f, "{} is elected", name(voter)),
            Action::StepDown(voter) => write!(f, "{} learns that it leads no more", name(voter)),
            Action::Check(segment) => {
                write!(f, "the owner checks its lease for a write of segment {segment}")
            }
            Action::Write => write!(f, "that write leaves"),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { epochs, restarts, pardons, moves, elections, pauses } = *self;
        write!(f, "{SEGMENTS} segments, {epochs} epochs, restarts {restarts}, pardons {pardons}")?;
        let also = [
            (moves, ", planned moves".to_owned()),
            (elections > 0, format!(", elections {elections}")),
            (pauses, ", pauses between check and write".to_owned()),
        ];
        also.iter().filter(|(given, _)| *given).try_for_each(|(_, text)| f.write_str(text))
    }
}
