//! Frames on a connection: a length of 4 octets, then one protobuf message.
//!
//! The reader names the most it takes, which differs by lane, and allocates only then: who sends a longer one is cut
//! off before anything of it is read.

use std::io;

use crypto::Secret;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Lane;
use super::message::{Body, Frame, Strange};
use crate::state::limits::{CONFIGURATION_LEN_MAX, FILES_LEN_MAX};

const LENGTH_LEN: usize = 4;

/// Octets of a `Hello` or `Welcome` frame.
pub const GREETING_LEN_MAX: usize = 4 * 1024;

/// Octets of a snapshot in one frame.
pub const SNAPSHOT_PIECE_LEN: usize = 256 * 1024;

/// What a frame is longer than what it carries: ids, tags, lengths, and the members that a snapshot begins with.
const HEADROOM: usize = 128 * 1024;

/// Octets of entries in one append, when it has more than one.
pub const APPEND_LEN_MAX: usize = 1 << 20;

/// The longest command is a configuration with its files; see `state::limits`.
const COMMAND_LEN_MAX: usize = 4 << 20;

const _: () = assert!(
    CONFIGURATION_LEN_MAX + FILES_LEN_MAX + HEADROOM < COMMAND_LEN_MAX,
    "each command fits into a frame"
);

/// The longest frame that a node takes on a lane.
pub fn len_max(lane: Lane) -> usize {
    match lane {
        Lane::Urgent => 64 * 1024,
        Lane::Append => APPEND_LEN_MAX + COMMAND_LEN_MAX + HEADROOM,
        Lane::Ask => COMMAND_LEN_MAX + HEADROOM,
        Lane::Snapshot => SNAPSHOT_PIECE_LEN + HEADROOM,
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("closed by the other end")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("a frame of {length} octets, where {max} are the most")]
    TooLong { length: usize, max: usize },
    #[error("{0}")]
    Strange(#[from] Strange),
}

/// A whole frame with its length, ready to be sent; `None` when the receiver would not take it.
pub fn encode(frame: Frame, max: usize) -> Option<Secret> {
    let length = frame.encoded_len();
    let octets = (length <= max).then(|| {
        let mut octets = Vec::with_capacity(LENGTH_LEN + length);
        octets.extend_from_slice(&(length as u32).to_be_bytes());
        frame.encode_raw(&mut octets);
        Secret::from(octets)
    });
    frame.wipe();
    octets
}

/// Waits for the next frame. Not to be cancelled: what was read of a frame is lost then.
pub async fn read(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<(u64, Body), FrameError> {
    let mut length = [0; LENGTH_LEN];
    stream.read_exact(&mut length).await.map_err(ended)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        return Err(FrameError::TooLong { length, max });
    }
    let mut octets = vec![0; length];
    let read = stream.read_exact(&mut octets).await.map_err(ended);
    let octets = Secret::from(octets);
    read?;
    Ok(Frame::decode_wiping(octets)?)
}

/// TCP that ends without TLS's farewell is how a process that was killed says it.
fn ended(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Closed,
        _ => FrameError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Nothing;
    use super::*;

    fn read_all(mut octets: &[u8], max: usize) -> Result<(u64, Body), FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut octets, max))
    }

    #[test]
    fn a_frame_comes_out_as_it_went_in() {
        let octets = encode(Frame::new(7, Body::Ping(Nothing {})), 100).unwrap();
        assert_eq!(read_all(octets.as_bytes(), 100).unwrap(), (7, Body::Ping(Nothing {})));
        assert!(encode(Frame::new(7, Body::Ask(vec![0; 100])), 100).is_none());
    }

    #[test]
    fn what_is_too_long_or_no_frame_is_refused() {
        let whole = encode(Frame::new(7, Body::Failed("no".into())), 100).unwrap();
        for cut in 0..whole.len() {
            assert!(matches!(read_all(&whole.as_bytes()[..cut], 100), Err(FrameError::Closed)), "{cut}");
        }
        let too_long = read_all(&[0xff; 8], 100);
        assert!(matches!(too_long, Err(FrameError::TooLong { length: 0xffff_ffff, max: 100 })));
        for garbage in [&b"\0\0\0\x04GET "[..], b"\0\0\0\0", b"\0\0\0\x02\x08\x01"] {
            assert!(matches!(read_all(garbage, 100), Err(FrameError::Strange(_))), "{garbage:?}");
        }
    }
}
