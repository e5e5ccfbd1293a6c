//! The error of every call that touches the world: what was tried, on what, and what came back.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of a call into the environment.
pub type Result<T> = std::result::Result<T, Error>;

/// What was tried when an [`Error`] arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Op {
    /// Creating a new file.
    Create,
    /// Opening an existing file.
    Open,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Flushing a file to stable storage.
    Sync,
    /// Changing a file's length.
    SetLen,
    /// Asking for a file's length, or where it really is.
    Stat,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Creating a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Flushing a directory to stable storage.
    SyncDir,
    /// Taking the lock of a file.
    Lock,
    /// Starting a thread.
    Spawn,
}

impl Op {
    /// Every operation, for fault tables.
    pub const ALL: [Op; 14] = [
        Op::Create,
        Op::Open,
        Op::Read,
        Op::Write,
        Op::Sync,
        Op::SetLen,
        Op::Stat,
        Op::Rename,
        Op::Remove,
        Op::CreateDir,
        Op::List,
        Op::SyncDir,
        Op::Lock,
        Op::Spawn,
    ];

    fn verb(self) -> &'static str {
        match self {
            Op::Create => "create",
            Op::Open => "open",
            Op::Read => "read",
            Op::Write => "write",
            Op::Sync => "sync",
            Op::SetLen => "resize",
            Op::Stat => "stat",
            Op::Rename => "rename",
            Op::Remove => "remove",
            Op::CreateDir => "create directory",
            Op::List => "list directory",
            Op::SyncDir => "sync directory",
            Op::Lock => "lock",
            Op::Spawn => "start thread",
        }
    }
}

/// A failed call into the environment.
#[derive(Debug)]
pub struct Error {
    /// What was tried.
    pub op: Op,
    /// On which file or directory (for [`Op::Spawn`]: the thread's name).
    pub path: PathBuf,
    /// What the system answered.
    pub source: io::Error,
}

impl Error {
    /// Wraps what the system answered with what was tried.
    pub fn new(op: Op, path: &Path, source: io::Error) -> Error {
        Error { op, path: path.to_path_buf(), source }
    }

    /// No such file or directory.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// The file exists already.
    pub fn is_already_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// The device or quota is full.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// Another process holds the lock.
    pub fn is_locked(&self) -> bool {
        self.op == Op::Lock && self.source.kind() == io::ErrorKind::WouldBlock
    }

    /// The system refused for lack of permission.
    pub fn is_permission_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.op.verb(), self.path.display(), self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
