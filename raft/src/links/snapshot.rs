//! A snapshot on its way from the leader to a node that was away too long.
//!
//! ```text
//!   leader: file ─ unseal ─> pieces of 256 KiB ~~~ own connection ~~~> seal anew ─> file ─ verified ─> Raft
//! ```
//!
//! Streamed on both sides: a piece is read when the one before it has gone out, and taken when it is on its way to the
//! disk. At the end both sides compare length and digest, and the receiver reads the whole state once before Raft hears
//! of it: a broken snapshot is refused and the node goes on as it was.

use std::io::{self, Read};
use std::sync::Arc;

use crypto::Secret;
use crypto::hash::sha256;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::LinkError;
use super::frame::SNAPSHOT_PIECE_LEN;
use super::message::{Body, SnapshotBegin, SnapshotEnd, SnapshotPiece};
use super::wire::Wire;
use crate::handle::Cluster;
use crate::store::snapshot::{Meta, SnapshotFile, Snapshots};
use crate::store::{StoreError, Vote};

/// Pieces between the disk and the connection.
const PIECES_AHEAD: usize = 2;

/// What both sides compute over the pieces: a chain, so it needs nothing but the last value.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    length: u64,
    digest: [u8; 32],
}

impl Sum {
    fn add(&mut self, piece: &[u8]) {
        self.length += piece.len() as u64;
        self.digest = sha256(&[&self.digest, piece]);
    }

    fn end(&self) -> SnapshotEnd {
        SnapshotEnd { length: self.length, digest: self.digest.to_vec() }
    }
}

/// Sends all of it and waits until it is installed; the receiver's vote.
pub async fn send(wire: &Wire, vote: Vote, file: SnapshotFile) -> Result<Vote, LinkError> {
    let (id, mut answer) = wire.expect()?;
    let mut begin = Some(SnapshotBegin::new(vote, &file.meta));
    let (pieces, mut ahead) = mpsc::channel(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || read_pieces(&file, &pieces));
    let mut sum = Sum::default();
    let answer = loop {
        tokio::select! {
            // Before the end it can only be a refusal.
            early = &mut answer => break early,
            piece = ahead.recv() => match piece {
                Some(Ok(octets)) => {
                    sum.add(&octets);
                    let piece = SnapshotPiece { begin: begin.take(), octets };
                    wire.send(id, Body::SnapshotPiece(piece)).await?;
                }
                Some(Err(error)) => {
                    wire.forget(id);
                    return Err(LinkError::Failed(format!("the snapshot cannot be read: {error}")));
                }
                None => {
                    wire.send(id, Body::SnapshotEnd(sum.end())).await?;
                    break answer.await;
                }
            },
        }
    };
    match answer {
        Ok(Body::SnapshotTaken(vote)) => Ok(vote.into()),
        Ok(Body::Failed(why)) => Err(LinkError::Failed(why)),
        Ok(_) => Err(LinkError::Failed("the answer is to another question".into())),
        Err(_) => Err(LinkError::Failed(wire.why_ended())),
    }
}

/// At least one piece, of an empty file too: the first one says what it is of.
fn read_pieces(file: &SnapshotFile, pieces: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let sent = (|| {
        let mut reader = file.reader()?;
        loop {
            let mut octets = Vec::with_capacity(SNAPSHOT_PIECE_LEN);
            reader.by_ref().take(SNAPSHOT_PIECE_LEN as u64).read_to_end(&mut octets)?;
            let last = octets.len() < SNAPSHOT_PIECE_LEN;
            // An error means that nobody sends it any more.
            if pieces.blocking_send(Ok(octets)).is_err() || last {
                return Ok(());
            }
        }
    })();
    if let Err(error) = sent {
        let _ = pieces.blocking_send(Err(error));
    }
}

/// A snapshot that is being received.
pub struct Incoming {
    vote: Vote,
    sum: Sum,
    /// An empty one is the end.
    pieces: mpsc::Sender<Option<Secret>>,
    written: JoinHandle<Result<SnapshotFile, StoreError>>,
}

impl Incoming {
    pub fn begin(begin: SnapshotBegin, snapshots: Arc<Snapshots>) -> Incoming {
        let (vote, meta) = begin.into_parts();
        let (pieces, queue) = mpsc::channel(PIECES_AHEAD);
        let written = tokio::task::spawn_blocking(move || write_pieces(meta, queue, &snapshots));
        Incoming { vote, sum: Sum::default(), pieces, written }
    }

    /// False when it cannot be written; `install` tells why.
    pub async fn take(&mut self, octets: Vec<u8>) -> bool {
        self.sum.add(&octets);
        self.pieces.send(Some(Secret::from(octets))).await.is_ok()
    }

    /// All pieces are there, if what the sender says fits them.
    pub async fn install(self, end: SnapshotEnd, cluster: Cluster) -> Result<Vote, String> {
        if self.sum.end() != end {
            return Err("the snapshot did not arrive whole".into());
        }
        // When it is gone the writing has failed, and says so below.
        let _ = self.pieces.send(None).await;
        drop(self.pieces);
        let file = match self.written.await {
            Ok(written) => written.map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        };
        cluster.install_snapshot(self.vote, file).await
    }

    /// Why it could not be written.
    pub async fn why(self) -> String {
        drop(self.pieces);
        match self.written.await {
            Ok(Ok(_)) => "it was cut short".into(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

fn write_pieces(
    meta: Meta,
    queue: mpsc::Receiver<Option<Secret>>,
    snapshots: &Snapshots,
) -> Result<SnapshotFile, StoreError> {
    let mut pieces = Pieces { queue, piece: Secret::default(), at: 0, ended: false };
    snapshots.receive(meta, &mut pieces)
}

/// The pieces as one stream of octets, which ends with an error unless its end was told.
struct Pieces {
    queue: mpsc::Receiver<Option<Secret>>,
    piece: Secret,
    at: usize,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() && !self.ended {
            match self.queue.blocking_recv() {
                Some(Some(piece)) => (self.piece, self.at) = (piece, 0),
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the sender gave up")),
            }
        }
        let length = out.len().min(self.piece.len() - self.at);
        out[..length].copy_from_slice(&self.piece.as_bytes()[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
