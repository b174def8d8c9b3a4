//! The whole actor framework: a named task with a bounded mailbox, and what its end means.
//!
//! An actor is an async function that owns its state and reads messages until there are none. Its name is in every
//! report about it. When it ends without being told to, or panics, the process ends: a node that is half alive is
//! worse than one that is gone, because its peers can take over only the latter. The exception are the actors of
//! segments (`roster`): theirs start again under a new epoch, and send nothing before.

use std::future::Future;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The sending end of a mailbox.
#[derive(Debug)]
pub struct Mailbox<M> {
    name: &'static str,
    sender: mpsc::Sender<M>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Mailbox { name: self.name, sender: self.sender.clone() }
    }
}

/// No room, or nobody there any more. The message comes back.
#[derive(Debug)]
pub struct Undelivered<M>(pub M);

impl<M> Mailbox<M> {
    /// A mailbox for `bound` messages, and its reading end.
    pub fn new(name: &'static str, bound: usize) -> (Mailbox<M>, mpsc::Receiver<M>) {
        let (sender, receiver) = mpsc::channel(bound);
        (Mailbox { name, sender }, receiver)
    }

    /// For what may be lost under load: datagrams. The caller counts it.
    pub fn offer(&self, message: M) -> Result<(), Undelivered<M>> {
        self.sender.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message) => {
                Undelivered(message)
            }
        })
    }

    /// For what must arrive: waits for room. False: the actor is gone.
    pub async fn send(&self, message: M) -> bool {
        self.sender.send(message).await.is_ok()
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Runs an actor whose end is the end of the process, unless the process is being stopped.
pub fn spawn_vital<F>(name: &'static str, stop: watch::Receiver<bool>, actor: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        let ended = tokio::spawn(actor).await;
        if *stop.borrow() {
            return;
        }
        let how = match ended {
            Ok(()) => "ended".to_owned(),
            Err(error) => format!("{error}"),
        };
        tracing::error!(actor = name, how, "an actor that the node cannot do without is gone");
        std::process::exit(crate::fault::Exit::Failed.code().into());
    })
}
