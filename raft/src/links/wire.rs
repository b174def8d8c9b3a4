//! One connection that this node dialled: many requests under way, each with its answer or its error.
//!
//! ```text
//!   call ──> queue ──> write ~~~~~> the other node
//!     ^                                  │
//!     └── waits <── read <~~~~~~~~~~~~~~~┘        quiet for too long: closed
//! ```
//!
//! `Wire` is what callers hold; `run` moves the octets until the connection ends, and everything that waits ends with
//! it. An error says whether the request may have been sent: nothing was when it never reached the queue.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crypto::Secret;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::frame::{self, FrameError};
use super::message::{Body, Frame, Nothing};
use super::{BoxFuture, Lane, Link, LinkError, Reply, Request};
use crate::store::Vote;
use crate::store::snapshot::SnapshotFile;

/// Frames that wait to be written. A caller waits when they are so many.
const QUEUE_LEN: usize = 256;
/// Of a snapshot's pieces fewer, since they are long.
const SNAPSHOT_QUEUE_LEN: usize = 4;

/// Small frames are written together, up to about so many octets.
const WRITE_LEN: usize = 64 * 1024;

/// The id of frames that belong to no request.
pub const NO_REQUEST: u64 = 0;

/// How a connection is found to be dead.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    /// A question is asked after so much silence.
    pub ask_after: Duration,
    /// The connection is given up after so much silence.
    pub dead_after: Duration,
}

/// A connection that may have ended already.
#[derive(Debug)]
pub struct Wire {
    lane: Lane,
    outgoing: mpsc::Sender<Secret>,
    /// `None` when the connection has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Body>>>>,
    next_id: AtomicU64,
    ended: watch::Sender<Option<Arc<str>>>,
    /// One snapshot at a time.
    snapshot: tokio::sync::Mutex<()>,
}

impl Wire {
    /// A wire, and the frames that `run` is to write.
    pub fn new(lane: Lane) -> (Arc<Wire>, mpsc::Receiver<Secret>) {
        let length = if lane == Lane::Snapshot { SNAPSHOT_QUEUE_LEN } else { QUEUE_LEN };
        let (outgoing, queue) = mpsc::channel(length);
        let wire = Wire {
            lane,
            outgoing,
            waiting: Mutex::new(Some(HashMap::new())),
            next_id: AtomicU64::new(NO_REQUEST + 1),
            ended: watch::Sender::new(None),
            snapshot: tokio::sync::Mutex::new(()),
        };
        (Arc::new(wire), queue)
    }

    pub fn is_open(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Ends the connection. The first reason stays.
    pub fn end(&self, why: &str) {
        self.ended.send_if_modified(|ended| match ended {
            Some(_) => false,
            None => {
                *ended = Some(why.into());
                true
            }
        });
        // Whoever waits learns it by the loss of the sender.
        drop(self.waiting().take());
    }

    /// Moves octets until the connection ends; why it did.
    pub async fn run(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        mut queue: mpsc::Receiver<Secret>,
        liveness: Liveness,
    ) -> Arc<str> {
        let _ended_with_us = Ender(self);
        let (mut read, mut write) = tokio::io::split(stream);
        let heard = Heard(Mutex::new(Instant::now()));
        let mut ended = self.ended.subscribe();
        tokio::select! {
            error = self.read_all(&mut read, &heard) => self.end(&error.to_string()),
            error = write_all(&mut write, &mut queue) => self.end(&error),
            () = self.watch(&heard, liveness) => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
        self.ended.borrow().clone().unwrap_or_else(|| "ended".into())
    }

    async fn read_all(&self, stream: &mut (impl AsyncRead + Unpin), heard: &Heard) -> FrameError {
        loop {
            match frame::read(stream, frame::len_max(self.lane)).await {
                Ok((id, body)) => {
                    heard.now();
                    // Nobody waits for a pong, or any more for an answer that comes too late.
                    let waits = self.waiting().as_mut().and_then(|waiting| waiting.remove(&id));
                    if let Some(waits) = waits {
                        let _ = waits.send(body);
                    }
                }
                Err(error) => return error,
            }
        }
    }

    async fn watch(&self, heard: &Heard, liveness: Liveness) {
        let mut look = tokio::time::interval(liveness.ask_after);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let silence = heard.ago();
            if silence >= liveness.dead_after {
                self.end(&format!("silent for {} ms", silence.as_millis()));
                return;
            }
            if let Some(ping) = frame::encode(Frame::new(NO_REQUEST, Body::Ping(Nothing {})), WRITE_LEN) {
                // A full queue is talk enough.
                let _ = self.outgoing.try_send(ping);
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&self, body: Body, within: Duration) -> Result<Body, LinkError> {
        let deadline = Instant::now() + within;
        let (id, answer) = self.expect()?;
        let _forgotten_with_us = Forget { wire: self, id };
        let sent = tokio::time::timeout_at(deadline, self.send(id, body)).await;
        sent.map_err(|_| LinkError::Unreachable("too much waits to be sent".into()))??;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(Body::Failed(why))) => Err(LinkError::Failed(why)),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(LinkError::Failed(self.why_ended())),
            Err(_) => Err(LinkError::TimedOut),
        }
    }

    /// An id for a request, and where its answer will be.
    pub fn expect(&self) -> Result<(u64, oneshot::Receiver<Body>), LinkError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (waits, answer) = oneshot::channel();
        match self.waiting().as_mut() {
            Some(waiting) => waiting.insert(id, waits),
            None => return Err(LinkError::Unreachable(self.why_ended())),
        };
        Ok((id, answer))
    }

    /// Puts a frame into the queue. After an error nothing was sent.
    pub async fn send(&self, id: u64, body: Body) -> Result<(), LinkError> {
        let octets = frame::encode(Frame::new(id, body), frame::len_max(self.lane))
            .ok_or_else(|| LinkError::Unreachable("longer than a frame may be".into()))?;
        let queued = self.outgoing.send(octets).await;
        queued.map_err(|_| LinkError::Unreachable(self.why_ended()))
    }

    pub fn forget(&self, id: u64) {
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.remove(&id);
        }
    }

    pub fn why_ended(&self) -> String {
        self.ended.borrow().as_deref().unwrap_or("ended").to_owned()
    }

    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Body>>>> {
        // Nothing under this lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for Wire {
    fn call(&self, request: Request, within: Duration) -> BoxFuture<'_, Result<Reply, LinkError>> {
        Box::pin(async move {
            let answer = self.ask(Body::from(&request), within).await?;
            Reply::try_from(answer).map_err(|strange| LinkError::Failed(strange.to_string()))
        })
    }

    fn send_snapshot(&self, vote: Vote, snapshot: SnapshotFile) -> BoxFuture<'_, Result<Vote, LinkError>> {
        Box::pin(async move {
            let _alone = self.snapshot.lock().await;
            super::snapshot::send(self, vote, snapshot).await
        })
    }
}

/// Writes what is queued, many small frames at once. Returns why it cannot go on.
pub async fn write_all(stream: &mut (impl AsyncWrite + Unpin), queue: &mut mpsc::Receiver<Secret>) -> String {
    while let Some(first) = queue.recv().await {
        let mut octets = first;
        if octets.len() < WRITE_LEN {
            octets = gather(&octets, queue);
        }
        let written = async {
            stream.write_all(octets.as_bytes()).await?;
            stream.flush().await
        };
        if let Err(error) = written.await {
            return error.to_string();
        }
    }
    "nobody uses it any more".into()
}

/// `first` and what else waits, as far as it is short.
fn gather(first: &Secret, queue: &mut mpsc::Receiver<Secret>) -> Secret {
    let mut octets = first.as_bytes().to_vec();
    while octets.len() < WRITE_LEN
        && let Ok(next) = queue.try_recv()
    {
        octets.extend_from_slice(next.as_bytes());
    }
    Secret::from(octets)
}

/// When something came last.
struct Heard(Mutex<Instant>);

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// Ends the wire when its task does, however it does.
struct Ender<'a>(&'a Wire);

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.0.end("stopped");
    }
}

/// A caller that gives up leaves nothing behind.
struct Forget<'a> {
    wire: &'a Wire,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.wire.forget(self.id);
    }
}
