//! How the log looks inside sled: keys, frames, the hash chain.
//!
//! ```text
//!   e | index (8) | piece (2)    frame, kind 'E'     the entry, cut into pieces below 4 KiB
//!   m.purged  m.tail             frame, kind 'T'     log id and digest of both ends
//!   m.vote                       frame, kind 'V'
//!   m.committed                  frame, kind 'C'
//!   m.owner                      frame, kind 'O'     cluster and node: a copied log is noticed
//!
//!   frame     "PL" | version | kind | CRC32C (4) | body
//!   piece 0   body = digest of the entry before (32) | length of the record (4) | first part of the record
//!   record    protobuf: log id, payload sealed for (cluster, node, log id)
//!   digest    SHA-256(digest before | record)
//! ```
//!
//! The checksum finds a damaged value, the chain finds one that is missing, old or in the wrong place.

use crypto::hash::sha256;
use prost::Message;

use crate::state::{ClusterId, NodeId};
use crate::store::codec::LogIdMessage;
use crate::store::seal::{Vault, place};
use crate::store::{Entry, LogId, Payload};

pub const PURGED: &[u8] = b"m.purged";
pub const TAIL: &[u8] = b"m.tail";
pub const VOTE: &[u8] = b"m.vote";
pub const COMMITTED: &[u8] = b"m.committed";
pub const OWNER: &[u8] = b"m.owner";

const MAGIC: &[u8; 2] = b"PL";
pub const VERSION: u8 = 1;
const FRAME_LEN: usize = 8;
const PIECE_ZERO_LEN: usize = 32 + 4;
/// Octets of a record in one value. sled writes what is larger than 128 KiB to files that it never syncs, and a leaf
/// of its tree holds up to 17 values (raft-jepsen 2.2, 2.5).
const PIECE_LEN: usize = 3_900;
/// Octets of one record: the most that one entry may have.
pub const RECORD_LEN_MAX: usize = 16 << 20;

const _: () = assert!(PIECE_LEN + PIECE_ZERO_LEN + FRAME_LEN < 4096);
const _: () = assert!(RECORD_LEN_MAX / PIECE_LEN < u16::MAX as usize);

pub type Digest = [u8; 32];

/// Before the first entry of a log.
pub const GENESIS: Digest = [0; 32];

/// One end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub id: LogId,
    pub digest: Digest,
}

/// An entry as it is stored, its payload still sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: LogId,
    pub before: Digest,
    pub digest: Digest,
    sealed: Vec<u8>,
}

/// Seals and opens payloads for the log of one node.
#[derive(Debug)]
pub struct Sealer {
    pub vault: std::sync::Arc<Vault>,
    pub cluster: ClusterId,
    pub node: NodeId,
}

#[derive(Clone, PartialEq, Message)]
struct RecordMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<LogIdMessage>,
    #[prost(bytes = "vec", tag = "2")]
    sealed: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EndMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<LogIdMessage>,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
}

/// Behind the keys of all entries.
pub const ENTRIES_END: [u8; 11] = [b'e' + 1; 11];

/// The first key of entry `index`; also a bound for ranges.
pub fn entry_key(index: u64) -> [u8; 11] {
    piece_key(index, 0)
}

fn is_entry_key(key: &[u8]) -> Option<(u64, u16)> {
    let (b'e', rest) = key.split_first()? else { return None };
    let (index, piece) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*index), u16::from_be_bytes(piece.try_into().ok()?)))
}

fn piece_key(index: u64, piece: u16) -> [u8; 11] {
    let mut key = [0; 11];
    key[0] = b'e';
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&piece.to_be_bytes());
    key
}

pub fn frame(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let mut value = Vec::with_capacity(FRAME_LEN + body.iter().map(|part| part.len()).sum::<usize>());
    value.extend_from_slice(MAGIC);
    value.push(VERSION);
    value.push(kind);
    value.extend_from_slice(&[0; 4]);
    body.iter().for_each(|part| value.extend_from_slice(part));
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&value[2..4]), &value[FRAME_LEN..]);
    value[4..8].copy_from_slice(&checksum.to_be_bytes());
    value
}

/// The body of a frame. The error says what is wrong with it.
pub fn unframe(kind: u8, value: &[u8]) -> Result<&[u8], String> {
    let (head, body) = value.split_first_chunk::<FRAME_LEN>().ok_or("is too short")?;
    if &head[..2] != MAGIC {
        return Err("is not ours".into());
    }
    let checksum = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    if checksum != crc32c::crc32c_append(crc32c::crc32c(&head[2..4]), body) {
        return Err("has a wrong checksum".into());
    }
    if head[2] != VERSION {
        return Err(format!("has format {}, and this version knows up to {VERSION}", head[2]));
    }
    if head[3] != kind {
        return Err("is of another kind".into());
    }
    Ok(body)
}

impl End {
    pub fn encode(&self) -> Vec<u8> {
        let message = EndMessage { id: Some(self.id.into()), digest: self.digest.to_vec() };
        frame(b'T', &[&message.encode_to_vec()])
    }

    pub fn decode(value: &[u8]) -> Result<End, String> {
        let message = EndMessage::decode(unframe(b'T', value)?).map_err(|error| error.to_string())?;
        let digest = message.digest.try_into().map_err(|_| "has a digest of another length")?;
        Ok(End { id: message.id.ok_or("has no log id")?.into(), digest })
    }

    /// The end of a log whose last entries are known from a snapshot only.
    pub fn from_snapshot(id: LogId) -> End {
        let numbers = [id.term.to_be_bytes(), id.node.to_be_bytes(), id.index.to_be_bytes()].concat();
        End { id, digest: sha256(&[b"pontoon log continued from a snapshot", &numbers]) }
    }
}

impl Sealer {
    pub fn owner(&self) -> Vec<u8> {
        frame(b'O', &[&self.cluster.0, &self.node.0.to_be_bytes()])
    }

    /// The key-value pairs of an entry, and the digest that the next one names. `Err` gives the length of a record
    /// that is too long.
    pub fn encode(
        &self,
        before: &Digest,
        entry: &Entry,
        mut put: impl FnMut([u8; 11], Vec<u8>),
    ) -> Result<Digest, usize> {
        let sealed = self.vault.seal(&self.place(entry.id), entry.payload.encode().as_bytes());
        let record = RecordMessage { id: Some(entry.id.into()), sealed }.encode_to_vec();
        if record.len() > RECORD_LEN_MAX {
            return Err(record.len());
        }
        let length = (record.len() as u32).to_be_bytes();
        for (piece, part) in record.chunks(PIECE_LEN).enumerate() {
            let value = match piece {
                0 => frame(b'E', &[before, &length, part]),
                _ => frame(b'E', &[part]),
            };
            put(piece_key(entry.id.index, piece as u16), value);
        }
        Ok(digest(before, &record))
    }

    pub fn open(&self, record: &Record) -> Result<Entry, String> {
        let plain = self
            .vault
            .open_sealed(&self.place(record.id), &record.sealed)
            .map_err(|error| error.to_string())?;
        let payload = Payload::decode(plain.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Entry { id: record.id, payload })
    }

    fn place(&self, id: LogId) -> Vec<u8> {
        let numbers = [id.term.to_be_bytes(), id.node.to_be_bytes(), id.index.to_be_bytes()].concat();
        place(&[b"pontoon log 1", &self.cluster.0, &self.node.0.to_be_bytes(), &numbers])
    }
}

fn digest(before: &Digest, record: &[u8]) -> Digest {
    sha256(&[before, record])
}

/// Puts records together again from pieces that come in the order of their keys.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    index: u64,
    next_piece: u16,
    before: Digest,
    length: usize,
    octets: Vec<u8>,
}

impl Assembler {
    /// `Ok(Some)` when this piece completes a record.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Record>, String> {
        let (index, piece) = is_entry_key(key).ok_or("a key is of no entry")?;
        let wrong = |why: &str| format!("entry {index} {why}");
        let body = unframe(b'E', value).map_err(|why| wrong(&why))?;
        let mut partial = match (self.partial.take(), piece) {
            (None, 0) => {
                let (before, rest) = body.split_first_chunk::<32>().ok_or_else(|| wrong("is cut off"))?;
                let (length, part) = rest.split_first_chunk::<4>().ok_or_else(|| wrong("is cut off"))?;
                let length = u32::from_be_bytes(*length) as usize;
                if length > RECORD_LEN_MAX {
                    return Err(wrong("claims an impossible length"));
                }
                Partial { index, next_piece: 1, before: *before, length, octets: part.to_vec() }
            }
            (Some(mut partial), piece) if partial.index == index && partial.next_piece == piece => {
                partial.octets.extend_from_slice(body);
                partial.next_piece += 1;
                partial
            }
            _ => return Err(wrong("lacks a piece")),
        };
        match partial.octets.len().cmp(&partial.length) {
            std::cmp::Ordering::Less => {
                self.partial = Some(partial);
                Ok(None)
            }
            std::cmp::Ordering::Greater => Err(wrong("is longer than it says")),
            std::cmp::Ordering::Equal => {
                let octets = std::mem::take(&mut partial.octets);
                let message = RecordMessage::decode(octets.as_slice()).map_err(|_| wrong("is no message"))?;
                let id: LogId = message.id.ok_or_else(|| wrong("has no log id"))?.into();
                if id.index != index {
                    return Err(wrong("stands in another one's place"));
                }
                let digest = digest(&partial.before, &octets);
                Ok(Some(Record { id, before: partial.before, digest, sealed: message.sealed }))
            }
        }
    }

    /// To be called behind the last piece.
    pub fn finish(self) -> Result<(), String> {
        match self.partial {
            None => Ok(()),
            Some(partial) => Err(format!("entry {} is cut off", partial.index)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crypto::Secret;
    use std::sync::Arc;

    fn sealer() -> (tempfile::TempDir, Sealer) {
        let dir = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(&dir.path().join("k"), true, dir.path()).unwrap());
        (dir, Sealer { vault, cluster: ClusterId([1; 16]), node: NodeId(1) })
    }

    fn entry(index: u64, len: usize) -> Entry {
        let octets: Vec<u8> = (0..len).map(|i| i as u8).collect();
        Entry {
            id: LogId { term: 2, node: 1, index },
            payload: Payload::Command(Arc::new(Secret::from(octets))),
        }
    }

    /// Key and value, as sled gets them.
    type Piece = ([u8; 11], Vec<u8>);

    fn pieces(sealer: &Sealer, entry: &Entry) -> (Vec<Piece>, Digest) {
        let mut pieces = Vec::new();
        let digest = sealer.encode(&GENESIS, entry, |key, value| pieces.push((key, value))).unwrap();
        (pieces, digest)
    }

    #[test]
    fn entries_of_every_size_come_back_from_values_below_4_kib() {
        let (_dir, sealer) = sealer();
        for len in [0, 1, 3_700, 3_800, 3_805, 3_850, 3_900, 4_096, 7_800, 100_000, 1 << 20] {
            let entry = entry(7, len);
            let (pieces, digest) = pieces(&sealer, &entry);
            let mut assembler = Assembler::default();
            let mut records = Vec::new();
            for (key, value) in &pieces {
                assert!(value.len() < 4096, "{len}: a value of {}", value.len());
                records.extend(assembler.add(key, value).unwrap());
            }
            assembler.finish().unwrap();
            let [record] = records.as_slice() else { panic!("{len}: {} records", records.len()) };
            assert_eq!(record.digest, digest);
            assert_eq!(sealer.open(record).unwrap(), entry);
        }
        let mut too_long = entry(7, 0);
        too_long.payload = Payload::Command(Arc::new(Secret::from(vec![0; RECORD_LEN_MAX])));
        sealer.encode(&GENESIS, &too_long, |_, _| {}).expect_err("longer than an entry may be");
    }

    #[test]
    fn a_damaged_missing_or_misplaced_piece_is_noticed() {
        let (_dir, sealer) = sealer();
        let (pieces, _) = pieces(&sealer, &entry(7, 10_000));
        assert_eq!(pieces.len(), 3);
        let assemble = |pieces: &[([u8; 11], Vec<u8>)]| -> Result<(), String> {
            let mut assembler = Assembler::default();
            for (key, value) in pieces {
                assembler.add(key, value)?;
            }
            assembler.finish()
        };
        assemble(&pieces).unwrap();
        for lost in 0..pieces.len() {
            let mut fewer = pieces.clone();
            fewer.remove(lost);
            assemble(&fewer).expect_err("a lost piece");
        }
        for (at, bit) in (0..pieces.len()).flat_map(|at| (0..300).map(move |bit| (at, bit))) {
            let mut flipped = pieces.clone();
            flipped[at].1[bit / 8] ^= 1 << (bit % 8);
            assemble(&flipped).expect_err("a flipped bit");
        }
        let mut moved = pieces.clone();
        moved.iter_mut().for_each(|(key, _)| key[8] = 9);
        assemble(&moved).expect_err("a moved entry");
    }

    #[test]
    fn an_entry_opens_only_in_its_own_log() {
        let (_dir, sealer) = sealer();
        let (pieces, _) = pieces(&sealer, &entry(7, 10));
        let record = Assembler::default().add(&pieces[0].0, &pieces[0].1).unwrap().unwrap();
        let other = Sealer { vault: sealer.vault.clone(), cluster: sealer.cluster, node: NodeId(2) };
        other.open(&record).expect_err("another node's log");
        sealer.open(&record).unwrap();
    }
}
