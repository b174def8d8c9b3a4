//! Snapshots: the replicated state as of one log id, each a file of its own, sealed.
//!
//! ```text
//!   snap-<index>-<term>-<node>
//!     "pontoonS" | version (4) | CRC32C (4) | length (4) | header (protobuf: log id, members, file id)
//!     length (4) | CRC32C (4) | sealed piece of up to 64 KiB          as many as it takes
//!     length (4) | CRC32C (4) | sealed piece, marked as the last one
//! ```
//!
//! Written to a temporary name, synced, renamed, directory synced: a file with a final name is whole. Each piece is
//! sealed for this file, this header, its number and whether it is the last, so pieces can be neither moved,
//! left out, nor cut off. Written and read as a stream; the state is never in memory twice as octets.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crypto::Secret;
use crypto::hash::sha256;
use crypto::rng::{OsRng, Rng};
use prost::Message;

use super::codec::{LogIdMessage, MembersMessage};
use super::error::StoreError;
use super::identity::{Identity, sync_dir};
use super::seal::{OVERHEAD, Vault, place};
use super::{LogId, Members};
use crate::state::{SnapshotError, State};

const MAGIC: &[u8; 8] = b"pontoonS";
const VERSION: u32 = 1;
const HEADER_LEN_MAX: usize = 1 << 20;
/// Octets of state in one piece.
const PIECE_LEN: usize = 64 * 1024;
const PREFIX: &str = "snap-";
const UNFINISHED: &str = ".tmp";

/// What a snapshot is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last entry whose effect is in it.
    pub last: Option<LogId>,
    pub members: Members,
    /// The entry that made `members` so.
    pub members_at: Option<LogId>,
}

/// A whole snapshot on disk. Stays readable while it is held, also when a newer one has taken its place.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    pub meta: Meta,
    file: Arc<File>,
    path: PathBuf,
    seal: Arc<Seal>,
    received: Option<Arc<Received>>,
}

/// What came from another node and was found to be whole.
#[derive(Debug)]
struct Received {
    state: State,
    _unfinished: Unfinished,
}

/// A file that is removed with its holder, unless it has another name by then.
#[derive(Debug)]
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Usually it was renamed. When it cannot be removed, the next start does it.
        let _ = fs::remove_file(&self.0);
    }
}

/// The directory of snapshots of one node. It keeps the newest.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    vault: Arc<Vault>,
    owner: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderMessage {
    #[prost(message, optional, tag = "1")]
    last: Option<LogIdMessage>,
    #[prost(message, optional, tag = "2")]
    members: Option<MembersMessage>,
    #[prost(message, optional, tag = "3")]
    members_at: Option<LogIdMessage>,
    /// Random: no two files have pieces that fit each other.
    #[prost(bytes = "vec", tag = "4")]
    file_id: Vec<u8>,
}

impl Snapshots {
    /// Opens the directory, making it when there is none, and removes what a crash left half-written.
    pub fn open(dir: &Path, identity: &Identity, vault: Arc<Vault>) -> Result<Snapshots, StoreError> {
        fs::create_dir_all(dir).map_err(StoreError::io("make the directory", dir))?;
        let owner = [identity.cluster.0.as_slice(), &identity.node.0.to_be_bytes()].concat();
        let snapshots = Snapshots { dir: dir.to_owned(), vault, owner };
        for path in snapshots.files(|name| name.ends_with(UNFINISHED))? {
            fs::remove_file(&path).map_err(StoreError::io("remove", path))?;
        }
        Ok(snapshots)
    }

    /// Writes a snapshot; `write` gives the state. When it returns the file is durable, and older ones are gone.
    pub fn create(
        &self,
        meta: Meta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotFile, StoreError> {
        let name = file_name(&meta);
        let unfinished = Unfinished(self.dir.join(name + UNFINISHED));
        let (file, seal) = self.write(&unfinished.0, &meta, write)?;
        let path = self.finish(&file, &unfinished.0, &meta)?;
        Ok(SnapshotFile { meta, file: Arc::new(file), path, seal: Arc::new(seal), received: None })
    }

    /// Writes the state that another node sends, and reads it once. It counts for nothing before it is adopted, and is
    /// gone with the last holder when it is not.
    pub fn receive(&self, meta: Meta, octets: &mut dyn Read) -> Result<SnapshotFile, StoreError> {
        let name = format!("{}.{:016x}{UNFINISHED}", file_name(&meta), OsRng.u64());
        let unfinished = Unfinished(self.dir.join(name));
        let (file, seal) = self.write(&unfinished.0, &meta, |out| io::copy(octets, out).map(drop))?;
        let path = unfinished.0.clone();
        let mut snapshot =
            SnapshotFile { meta, file: Arc::new(file), path, seal: Arc::new(seal), received: None };
        let state = snapshot.state()?;
        snapshot.received = Some(Arc::new(Received { state, _unfinished: unfinished }));
        Ok(snapshot)
    }

    fn write(
        &self,
        unfinished: &Path,
        meta: &Meta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(File, Seal), StoreError> {
        let written = (|| {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(unfinished)?;
            let (header, seal) = self.header(meta);
            let mut out = PieceWriter::begin(BufWriter::new(file), &header, &seal)?;
            write(&mut out)?;
            let file = out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            Ok((file, seal))
        })();
        written.map_err(StoreError::io("write the snapshot", unfinished))
    }

    /// Makes a written file the newest snapshot. When it returns that is durable.
    fn finish(&self, file: &File, unfinished: &Path, meta: &Meta) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(file_name(meta));
        file.sync_data()
            .and_then(|()| fs::rename(unfinished, &path))
            .map_err(StoreError::io("write the snapshot", &path))?;
        sync_dir(&self.dir)?;
        self.remove_older(meta)?;
        Ok(path)
    }

    /// The newest one. Its header is verified here, its pieces when they are read.
    pub fn latest(&self) -> Result<Option<SnapshotFile>, StoreError> {
        let files = self.files(|name| !name.ends_with(UNFINISHED))?;
        let newest = files.into_iter().max();
        newest.map(|path| self.open_file(path)).transpose()
    }

    /// Makes `file` this node's own: gives it its name when it was received here, copies it, sealed anew, when it is of
    /// another directory. Nothing to do when it is the one that is here already.
    pub fn adopt(&self, file: &SnapshotFile) -> Result<(), StoreError> {
        if file.path == self.dir.join(file_name(&file.meta)) {
            return Ok(());
        }
        if file.received.is_some() && file.path.parent() == Some(&self.dir) {
            return self.finish(&file.file, &file.path, &file.meta).map(drop);
        }
        let mut octets = file.reader()?;
        self.create(file.meta.clone(), |out| io::copy(&mut octets, out).map(drop)).map(drop)
    }

    fn open_file(&self, path: PathBuf) -> Result<SnapshotFile, StoreError> {
        let mut file = File::open(&path).map_err(StoreError::io("open", &path))?;
        let header = read_header(&mut file, &path)?;
        let message =
            HeaderMessage::decode(header.as_slice()).map_err(|_| damaged(&path, "has no header"))?;
        let meta = Meta {
            last: message.last.map(LogId::from),
            members: message.members.clone().map(Members::from).unwrap_or_default(),
            members_at: message.members_at.map(LogId::from),
        };
        if path.file_name().is_none_or(|name| name.to_string_lossy() != file_name(&meta)) {
            return Err(damaged(&path, "is not what its name says"));
        }
        let seal = Seal { vault: self.vault.clone(), place: self.place(&header) };
        Ok(SnapshotFile { meta, file: Arc::new(file), path, seal: Arc::new(seal), received: None })
    }

    fn header(&self, meta: &Meta) -> (Vec<u8>, Seal) {
        let mut file_id = vec![0; 16];
        OsRng.fill(&mut file_id);
        let message = HeaderMessage {
            last: meta.last.map(Into::into),
            members: Some((&meta.members).into()),
            members_at: meta.members_at.map(Into::into),
            file_id,
        };
        let header = message.encode_to_vec();
        let seal = Seal { vault: self.vault.clone(), place: self.place(&header) };
        (header, seal)
    }

    fn place(&self, header: &[u8]) -> Vec<u8> {
        place(&[b"pontoon snapshot 1", &self.owner, &sha256(&[header])])
    }

    fn remove_older(&self, than: &Meta) -> Result<(), StoreError> {
        let kept = self.dir.join(file_name(than));
        for path in self.files(|name| !name.ends_with(UNFINISHED))? {
            if path < kept {
                fs::remove_file(&path).map_err(StoreError::io("remove", path))?;
            }
        }
        Ok(())
    }

    fn files(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, StoreError> {
        let entries = fs::read_dir(&self.dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let entries = entries.map_err(StoreError::io("list", &self.dir))?;
        let ours = entries.into_iter().filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(PREFIX) && wanted(&name)
        });
        Ok(ours.map(|entry| entry.path()).collect())
    }
}

impl SnapshotFile {
    /// The state, from its first octet. Ends with an error when the file is not what was written.
    pub fn reader(&self) -> Result<impl Read + use<>, StoreError> {
        let mut file = FromStart { file: self.file.clone(), at: 0 };
        read_header(&mut file, &self.path)?;
        Ok(PieceReader {
            input: BufReader::new(file),
            path: self.path.clone(),
            seal: self.seal.clone(),
            number: 0,
            piece: Secret::default(),
            at: 0,
            ended: false,
        })
    }

    /// The state in it. What does not unseal is damage; what does and is no state of ours comes from another version.
    pub fn state(&self) -> Result<State, StoreError> {
        if let Some(received) = &self.received {
            return Ok(received.state.clone());
        }
        match State::decode_snapshot(&mut self.reader()?) {
            Ok(state) => Ok(state),
            Err(SnapshotError::Io(error)) => Err(error
                .downcast::<StoreError>()
                .unwrap_or_else(|error| StoreError::io("read the snapshot", &self.path)(error))),
            Err(error) => Err(StoreError::Engine { doing: "read the snapshot", why: error.to_string() }),
        }
    }

    /// Octets on disk.
    pub fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sorts by index, then term, then node, as text too.
fn file_name(meta: &Meta) -> String {
    let id = meta.last.unwrap_or(LogId { term: 0, node: 0, index: 0 });
    format!("{PREFIX}{:020}-{:020}-{:020}", id.index, id.term, id.node)
}

#[derive(Debug)]
struct Seal {
    vault: Arc<Vault>,
    place: Vec<u8>,
}

impl Seal {
    fn place_of(&self, number: u64, last: bool) -> Vec<u8> {
        place(&[&self.place, &number.to_be_bytes(), &[u8::from(last)]])
    }
}

struct PieceWriter<'a, W> {
    out: W,
    seal: &'a Seal,
    number: u64,
    piece: Vec<u8>,
}

impl<'a, W: Write> PieceWriter<'a, W> {
    fn begin(mut out: W, header: &[u8], seal: &'a Seal) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_be_bytes())?;
        out.write_all(&crc32c::crc32c(header).to_be_bytes())?;
        out.write_all(&(header.len() as u32).to_be_bytes())?;
        out.write_all(header)?;
        Ok(PieceWriter { out, seal, number: 0, piece: Vec::with_capacity(PIECE_LEN) })
    }

    fn put(&mut self, last: bool) -> io::Result<()> {
        let plain = Secret::from(std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_LEN)));
        let sealed = self.seal.vault.seal(&self.seal.place_of(self.number, last), plain.as_bytes());
        self.number += 1;
        self.out.write_all(&(sealed.len() as u32).to_be_bytes())?;
        self.out.write_all(&crc32c::crc32c(&sealed).to_be_bytes())?;
        self.out.write_all(&sealed)
    }

    fn finish(mut self) -> io::Result<W> {
        self.put(true)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for PieceWriter<'_, W> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE_LEN {
            self.put(false)?;
        }
        let len = octets.len().min(PIECE_LEN - self.piece.len());
        self.piece.extend_from_slice(&octets[..len]);
        Ok(len)
    }

    /// Nothing to do: pieces are of fixed length, and `finish` writes the last one.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file that others read too, each from its own place.
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(out, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

struct PieceReader {
    input: BufReader<FromStart>,
    path: PathBuf,
    seal: Arc<Seal>,
    number: u64,
    piece: Secret,
    at: usize,
    ended: bool,
}

impl PieceReader {
    fn next(&mut self) -> io::Result<()> {
        let damaged = |what: &str| io::Error::from(damaged(&self.path, what));
        let mut head = [0; 8];
        self.input.read_exact(&mut head).map_err(|_| damaged("is cut off"))?;
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let checksum = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        if length > PIECE_LEN + OVERHEAD {
            return Err(damaged("claims an impossible length"));
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed).map_err(|_| damaged("is cut off"))?;
        if crc32c::crc32c(&sealed) != checksum {
            return Err(damaged("has a wrong checksum"));
        }
        let last = self.input.fill_buf()?.is_empty();
        self.piece = self
            .seal
            .vault
            .open_sealed(&self.seal.place_of(self.number, last), &sealed)
            .map_err(|error| damaged(&error.to_string()))?;
        self.number += 1;
        self.at = 0;
        self.ended = last;
        Ok(())
    }
}

impl Read for PieceReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            self.next()?;
        }
        let len = out.len().min(self.piece.len() - self.at);
        out[..len].copy_from_slice(&self.piece.as_bytes()[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn read_header(file: &mut impl Read, path: &Path) -> Result<Vec<u8>, StoreError> {
    let mut head = [0; 20];
    file.read_exact(&mut head).map_err(|_| damaged(path, "is cut off"))?;
    let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if &head[..8] != MAGIC {
        return Err(damaged(path, "is something else"));
    }
    if number(8) != VERSION {
        return Err(StoreError::Version { path: path.to_owned(), found: number(8), known: VERSION });
    }
    let length = number(16) as usize;
    if length > HEADER_LEN_MAX {
        return Err(damaged(path, "claims an impossible length"));
    }
    let mut header = vec![0; length];
    file.read_exact(&mut header).map_err(|_| damaged(path, "is cut off"))?;
    if crc32c::crc32c(&header) != number(12) {
        return Err(damaged(path, "has a wrong checksum"));
    }
    Ok(header)
}

fn damaged(path: &Path, what: &str) -> StoreError {
    let dir = path.parent().and_then(Path::parent).unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    StoreError::damaged(dir, format!("the snapshot {name} {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::identity::Phase;
    use super::*;
    use crate::state::{ClusterId, NodeId};

    struct Fixture {
        dir: tempfile::TempDir,
        snapshots: Snapshots,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let vault = Arc::new(Vault::open(&dir.path().join("k"), true, dir.path()).unwrap());
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            cluster_name: "c".into(),
            node: NodeId(1),
            me: crate::store::Peer::default(),
            phase: Phase::Member,
        };
        let snapshots = Snapshots::open(&dir.path().join("snapshots"), &identity, vault).unwrap();
        Fixture { dir, snapshots }
    }

    fn meta(index: u64) -> Meta {
        Meta { last: Some(LogId { term: 1, node: 1, index }), ..Meta::default() }
    }

    fn read(file: &SnapshotFile) -> io::Result<Vec<u8>> {
        let mut octets = Vec::new();
        file.reader()?.read_to_end(&mut octets)?;
        Ok(octets)
    }

    #[test]
    fn states_of_every_size_come_back_and_only_the_newest_stays() {
        let Fixture { snapshots, dir: _dir } = fixture();
        for (index, len) in [0, 1, PIECE_LEN - 1, PIECE_LEN, PIECE_LEN + 1, 5 * PIECE_LEN].iter().enumerate()
        {
            let state: Vec<u8> = (0..*len).map(|i| (i / 7) as u8).collect();
            let made = snapshots.create(meta(index as u64), |out| out.write_all(&state)).unwrap();
            assert_eq!(read(&made).unwrap(), state);
            let found = snapshots.latest().unwrap().unwrap();
            assert_eq!(found.meta, meta(index as u64));
            assert_eq!(read(&found).unwrap(), state);
            assert_eq!(snapshots.files(|_| true).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_held_snapshot_outlives_its_successor() {
        let Fixture { snapshots, dir: _dir } = fixture();
        let held = snapshots.create(meta(1), |out| out.write_all(b"old")).unwrap();
        snapshots.create(meta(2), |out| out.write_all(b"new")).unwrap();
        assert_eq!(read(&held).unwrap(), b"old");
        assert_eq!(read(&held).unwrap(), b"old", "and can be read again");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let Fixture { snapshots, dir: _dir } = fixture();
        let made = snapshots.create(meta(3), |out| out.write_all(b"the state")).unwrap();
        let good = fs::read(&made.path).unwrap();
        let try_read = || snapshots.latest().map_err(io::Error::from).and_then(|file| read(&file.unwrap()));
        for bit in 0..good.len() * 8 {
            let mut octets = good.clone();
            octets[bit / 8] ^= 1 << (bit % 8);
            fs::write(&made.path, octets).unwrap();
            try_read().expect_err("a flipped bit");
        }
        for len in 0..good.len() {
            fs::write(&made.path, &good[..len]).unwrap();
            try_read().expect_err("a shorter file");
        }
        fs::write(&made.path, [good.as_slice(), b"x"].concat()).unwrap();
        try_read().expect_err("a longer file");
        fs::write(&made.path, good).unwrap();
        try_read().unwrap();
    }

    #[test]
    fn pieces_cannot_be_left_out_at_the_end() {
        let Fixture { snapshots, dir: _dir } = fixture();
        let state = vec![7; 3 * PIECE_LEN];
        let made = snapshots.create(meta(3), |out| out.write_all(&state)).unwrap();
        let octets = fs::read(&made.path).unwrap();
        let whole_piece = 8 + PIECE_LEN + OVERHEAD;
        fs::write(&made.path, &octets[..octets.len() - whole_piece]).unwrap();
        let error = read(&snapshots.latest().unwrap().unwrap()).unwrap_err();
        assert!(error.to_string().contains("does not open"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_one_before() {
        let Fixture { snapshots, dir } = fixture();
        snapshots.create(meta(1), |out| out.write_all(b"good")).unwrap();
        let full = |_: &mut dyn Write| Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = snapshots.create(meta(2), full).unwrap_err();
        assert!(error.remedy().contains("free some space"), "{error}");
        assert_eq!(read(&snapshots.latest().unwrap().unwrap()).unwrap(), b"good");
        fs::write(dir.path().join("snapshots/snap-9.tmp"), b"half").unwrap();
        assert_eq!(snapshots.latest().unwrap().unwrap().meta, meta(1));
    }
}
