//! A connection that another member dialled: its requests are answered, many at a time, each when it is ready.
//!
//! A member is trusted to mean well, not to be without faults: frames are bounded, the requests under way too, and
//! what cannot be understood ends the connection and is counted.

use std::sync::Arc;
use std::time::Duration;

use crypto::Secret;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;

use super::counters::Refused;
use super::frame::{self, FrameError, len_max};
use super::message::{Body, Frame, Nothing, Strange};
use super::snapshot::Incoming;
use super::tls::Shared;
use super::{Lane, Request, wire};
use crate::state::NodeId;

/// Requests of one connection under way at a time; the next one is read when one of them is answered.
const UNDER_WAY_MAX: usize = 256;

/// Answers that wait to be written.
const ANSWERS_MAX: usize = 256;

/// Until the connection ends.
pub async fn serve(shared: &Arc<Shared>, stream: TlsStream<TcpStream>, node: NodeId, lane: Lane) {
    let Some(ended) = shared.accepted(node, lane) else { return };
    let (mut read, mut write) = tokio::io::split(stream);
    let (answers, mut queue) = mpsc::channel(ANSWERS_MAX);
    let mut servant = Servant {
        shared: shared.clone(),
        node,
        lane,
        answers,
        under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        incoming: None,
    };
    let error = tokio::select! {
        error = servant.read_all(&mut read, shared.pace.silence_max) => error,
        why = wire::write_all(&mut write, &mut queue) => Ended::Io(why),
        _ = ended => Ended::Io("replaced".into()),
    };
    match error {
        Ended::Fault(why) => shared.refuse_member(Refused::Frame, node, &why),
        Ended::Io(why) => tracing::debug!(%node, ?lane, %why, "an accepted connection ended"),
    }
}

enum Ended {
    Io(String),
    /// The other end did what it must not.
    Fault(String),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Ended {
        match error {
            FrameError::Closed | FrameError::Io(_) => Ended::Io(error.to_string()),
            FrameError::TooLong { .. } | FrameError::Strange(_) => Ended::Fault(error.to_string()),
        }
    }
}

impl From<Strange> for Ended {
    fn from(strange: Strange) -> Ended {
        Ended::Fault(strange.to_string())
    }
}

struct Servant {
    shared: Arc<Shared>,
    node: NodeId,
    lane: Lane,
    answers: mpsc::Sender<Secret>,
    under_way: Arc<Semaphore>,
    /// The snapshot that is being received, and its request.
    incoming: Option<(u64, Incoming)>,
}

impl Servant {
    async fn read_all(&mut self, stream: &mut (impl AsyncRead + Unpin), silence_max: Duration) -> Ended {
        loop {
            let read = tokio::time::timeout(silence_max, frame::read(stream, len_max(self.lane))).await;
            let taken = match read {
                Ok(Ok((id, body))) => self.take(id, body).await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(Ended::Io("silent".into())),
            };
            if let Err(ended) = taken {
                return ended;
            }
        }
    }

    async fn take(&mut self, id: u64, body: Body) -> Result<(), Ended> {
        match body {
            Body::Ping(Nothing {}) => {
                self.answer(id, Body::Pong(Nothing {})).await;
                Ok(())
            }
            Body::SnapshotPiece(_) | Body::SnapshotEnd(_) if self.lane != Lane::Snapshot => {
                Err(Strange("a snapshot on the wrong lane").into())
            }
            Body::SnapshotPiece(_) | Body::SnapshotEnd(_) => self.take_snapshot(id, body).await,
            Body::Ask(octets) => {
                self.in_background(id, self.shared.answer(self.node, octets)).await;
                Ok(())
            }
            body => {
                let request = Request::try_from(body)?;
                let cluster = self.shared.cluster();
                let serve = async move {
                    match cluster {
                        None => Body::Failed("it is being stopped".into()),
                        Some(cluster) => match cluster.serve(request).await {
                            Ok(reply) => Body::from(&reply),
                            Err(why) => Body::Failed(why),
                        },
                    }
                };
                self.in_background(id, serve).await;
                Ok(())
            }
        }
    }

    /// Pieces are taken one after the other: the connection waits while the disk is slow. The end is in the background.
    async fn take_snapshot(&mut self, id: u64, body: Body) -> Result<(), Ended> {
        let Some(cluster) = self.shared.cluster() else {
            self.answer(id, Body::Failed("it is being stopped".into())).await;
            return Ok(());
        };
        match body {
            Body::SnapshotPiece(piece) => {
                if let Some(begin) = piece.begin {
                    // One that was broken off before this one is forgotten with it.
                    self.incoming = Some((id, Incoming::begin(begin, cluster.snapshots())));
                }
                match self.incoming.as_mut().filter(|(current, _)| *current == id) {
                    // The rest of one that was refused.
                    None => {}
                    Some((_, incoming)) => {
                        if !incoming.take(piece.octets).await
                            && let Some((_, incoming)) = self.incoming.take()
                        {
                            self.answer(id, Body::Failed(incoming.why().await)).await;
                        }
                    }
                }
            }
            Body::SnapshotEnd(end) => {
                if let Some((_, incoming)) = self.incoming.take().filter(|(current, _)| *current == id) {
                    let install = async move {
                        match incoming.install(end, cluster).await {
                            Ok(vote) => Body::SnapshotTaken(vote.into()),
                            Err(why) => Body::Failed(why),
                        }
                    };
                    self.in_background(id, install).await;
                }
            }
            _ => return Err(Strange("no part of a snapshot").into()),
        }
        Ok(())
    }

    async fn in_background(&self, id: u64, work: impl Future<Output = Body> + Send + 'static) {
        let Ok(permit) = self.under_way.clone().acquire_owned().await else { return };
        let (answers, lane) = (self.answers.clone(), self.lane);
        tokio::spawn(async move {
            send(&answers, lane, id, work.await).await;
            drop(permit);
        });
    }

    async fn answer(&self, id: u64, body: Body) {
        send(&self.answers, self.lane, id, body).await;
    }
}

async fn send(answers: &mpsc::Sender<Secret>, lane: Lane, id: u64, body: Body) {
    let too_long = || Body::Failed("the answer is longer than a frame may be".into());
    let octets = frame::encode(Frame::new(id, body), len_max(lane))
        .or_else(|| frame::encode(Frame::new(id, too_long()), len_max(lane)));
    if let Some(octets) = octets {
        // Nobody waits for it when the connection has ended.
        let _ = answers.send(octets).await;
    }
}
