//! The steps, and how a run is told.

use std::fmt;

use super::super::log::Node;
use super::Bounds;
use super::state::{Command, Owner};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Commit(Command),
    Apply(Node),
    Crash(Node),
    Start(Node),
    Send(Node, usize),
    Mirror(usize),
    Decide(Node, usize),
    GiveUp(Node, usize),
    Reply(Node, usize),
    Repeat(Node, usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Action::Commit(Command::Incarnate(Owner { node, incarnation })) => {
                write!(f, "commit: process {incarnation} of node {node} runs")
            }
            Action::Commit(Command::Assign { segment, to, epoch }) => {
                write!(
                    f,
                    "commit: segment {segment} to node {}, process {}, epoch {epoch}",
                    to.node, to.incarnation
                )
            }
            Action::Commit(Command::Reserve { segment }) => {
                write!(f, "commit: more numbers for segment {segment}")
            }
            Action::Commit(Command::Change { segment, decision }) => write!(
                f,
                "commit: decision {} of node {} on revision {} of segment {segment}",
                decision.counter, decision.by.node, decision.revision
            ),
            Action::Apply(node) => write!(f, "node {node} applies what it had not yet"),
            Action::Crash(node) => write!(f, "node {node} crashes"),
            Action::Start(node) => write!(f, "node {node} starts again"),
            Action::Send(node, segment) => write!(f, "node {node} sends a packet of segment {segment}"),
            Action::Mirror(segment) => write!(f, "the others hear which number segment {segment} is at"),
            Action::Decide(node, segment) => write!(f, "node {node} decides for segment {segment}"),
            Action::GiveUp(node, segment) => write!(f, "node {node} waits no longer for segment {segment}"),
            Action::Reply(node, segment) => write!(f, "node {node} replies for segment {segment}"),
            Action::Repeat(node, segment) => write!(f, "node {node} repeats the reply of segment {segment}"),
        }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bounds { segments, epochs, restarts, sends, reserves, revisions, decisions } = *self;
        let plural = if segments == 1 { "" } else { "s" };
        write!(f, "{segments} segment{plural}, {epochs} epochs, restarts {restarts}")?;
        if sends {
            write!(f, ", further blocks {reserves}")?;
        }
        if revisions > 0 {
            write!(f, ", revisions {revisions}, decisions {decisions} an epoch")?;
        }
        Ok(())
    }
}
