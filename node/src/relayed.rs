//! Commands that only the owner of an SA can carry out, on their way there from the node that was asked.
//!
//! A command travels as the control protocol has it, and comes back as the answer of the owner's daemon, so that a
//! refusal reads the same wherever it was asked for. It is relayed once: when the owner has changed meanwhile, the
//! administrator is told so.

use std::sync::Arc;
use std::time::Duration;

use raft::state::NodeId;
use serde::de::DeserializeOwned;

use crate::asks::Topic;
use crate::control::{Answer, Backend, Call};
use crate::daemon::Daemon;
use crate::fault::Fault;

/// The tool gives up earlier; the work goes on.
const WITHIN: Duration = Duration::from_secs(30);

#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    /// `control::Call` as JSON.
    #[prost(bytes = "vec", tag = "1")]
    call: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Answered {
    /// JSON: `{"Ok": document}` or `{"Err": fault}`.
    #[prost(bytes = "vec", tag = "1")]
    answer: Vec<u8>,
}

impl Daemon {
    /// Has `owner` carry out a command.
    pub async fn relay<T: DeserializeOwned>(&self, owner: NodeId, call: Call) -> Answer<T> {
        let failed = |why: String| {
            Fault::failed("the owner of the SA has not carried it out").why(why).attempt("pontoon sas")
        };
        let call = serde_json::to_vec(&call).map_err(|error| failed(error.to_string()))?;
        let answered: Result<Answered, _> =
            self.asks.ask(owner, Topic::Command, &Asked { call }, WITHIN).await;
        let answer = answered.map_err(|error| failed(error.to_string()))?.answer;
        let answer: Answer<T> = serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()))?;
        answer
    }

    /// Carries out what other nodes relay, from now on.
    pub fn serve_relayed(self: &Arc<Self>) {
        let daemon = Arc::downgrade(self);
        self.asks.on(Topic::Command, move |_, asked: Asked| {
            let daemon = daemon.clone();
            async move {
                let answer = match (serde_json::from_slice(&asked.call), daemon.upgrade()) {
                    (Ok(call), Some(daemon)) => daemon.carry_out(call).await,
                    _ => Err(Fault::failed("this node does not understand the command")),
                };
                // A document of text keys and numbers: there is nothing in it that JSON cannot say.
                Answered { answer: serde_json::to_vec(&answer).unwrap_or_default() }
            }
        });
    }

    async fn carry_out(&self, call: Call) -> Answer<crate::control::api::Acted> {
        let sa = match &call {
            Call::Terminate { sa } | Call::Rekey { sa } => *sa,
            _ => return Err(Fault::failed("that command is not relayed")),
        };
        if !self.serves(sa) {
            return Err(Fault::failed(format!("the owner of {sa} has just changed")).attempt("try again"));
        }
        match call {
            Call::Terminate { .. } => self.terminate(sa).await,
            _ => self.rekey(sa).await,
        }
    }
}
