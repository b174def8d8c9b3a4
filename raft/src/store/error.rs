//! Why the store cannot go on, and what a person can do about it.
//!
//! Three kinds, told apart because they want different answers: the surroundings (a full disk, a lock, a key file:
//! put it right and start again), damage (what was on disk is not what was written: the directory is never used
//! again, the node comes back under a new id), and a format that this version does not know.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: Arc<io::Error> },

    /// sled reported an error that is neither IO nor damage.
    #[error("the log store failed while it tried to {doing}: {why}")]
    Engine { doing: &'static str, why: String },

    #[error("{} is in use by {holder}", dir.display())]
    InUse { dir: PathBuf, holder: String },

    /// What is on disk is not what was written, or some of it is gone.
    #[error("{} is damaged: {what}", dir.display())]
    Damaged { dir: PathBuf, what: String },

    /// An earlier start found damage.
    #[error("{} was put into quarantine: {what}", dir.display())]
    Quarantined { dir: PathBuf, what: String },

    #[error("the storage key {} does not fit {}", key_file.display(), dir.display())]
    WrongKey { key_file: PathBuf, dir: PathBuf },

    #[error("the storage key {} is missing, and {} is sealed with it", key_file.display(), dir.display())]
    KeyMissing { key_file: PathBuf, dir: PathBuf },

    #[error("the storage key {} {why}", key_file.display())]
    KeyUnusable { key_file: PathBuf, why: String },

    #[error("{} has format {found}, and this version knows up to {known}", path.display())]
    Version { path: PathBuf, found: u32, known: u32 },

    #[error("{} belongs to cluster {found}, not to {wanted}", dir.display())]
    OtherCluster { dir: PathBuf, found: String, wanted: String },

    /// An operation after one that failed.
    #[error("the log store stopped after an earlier error: {0}")]
    Stopped(Arc<StoreError>),
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.as_ref().to_owned();
        move |source| StoreError::Io { doing, path, source: Arc::new(source) }
    }

    pub(crate) fn damaged(dir: &Path, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { dir: dir.to_owned(), what: what.into() }
    }

    /// True when the directory must never be used again under its node id.
    pub fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. } | StoreError::Quarantined { .. })
    }

    /// What to do, for the `try` line of a message.
    pub fn remedy(&self) -> String {
        match self {
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded => {
                    "free some space and start again; nothing that was acknowledged is lost".into()
                }
                io::ErrorKind::PermissionDenied => "give the user that runs pontoon access to it".into(),
                _ => "check the disk, then start again; nothing that was acknowledged is lost".into(),
            },
            StoreError::Engine { .. } => "start again; if it happens again, check the disk".into(),
            StoreError::InUse { .. } => "stop the other process, or give this one its own data_dir".into(),
            StoreError::Damaged { dir, .. } | StoreError::Quarantined { dir, .. } => format!(
                "move {} away, start with an empty one and join the cluster again: the node gets a new id, its old one \
                 is never used again",
                dir.display()
            ),
            StoreError::WrongKey { .. } => "name the key file that this data_dir was made with".into(),
            StoreError::KeyMissing { .. } => {
                "put the key file back; without it, start with an empty data_dir and join again".into()
            }
            StoreError::KeyUnusable { .. } => "it must hold one key as written by pontoon, mode 0600".into(),
            StoreError::Version { .. } => "use the version of pontoon that wrote it, or a newer one".into(),
            StoreError::OtherCluster { .. } => "give each cluster its own data_dir".into(),
            StoreError::Stopped(earlier) => earlier.remedy(),
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> io::Error {
        match &error {
            StoreError::Io { source, .. } => io::Error::new(source.kind(), error),
            _ => io::Error::other(error),
        }
    }
}
