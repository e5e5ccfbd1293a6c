//! Files as the rest of Cairn sees them, and the two small traits a world implements.
//!
//! All reads and writes are positional; nobody holds a cursor. A [`File`] may be shared between
//! threads and is closed when its last clone goes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Env;
use crate::error::{Error, Op, Result};

/// What a world offers for one open file. Implemented by the worlds; used through [`File`].
#[allow(clippy::len_without_is_empty)] // A world answers the one question; `File` has both.
pub trait RawFile: Send + Sync {
    /// Reads up to `buf.len()` bytes at `offset`; 0 at or past the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes up to `data.len()` bytes at `offset`, growing the file; returns how many.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;
    /// Flushes data, and the metadata needed to read it back, to stable storage.
    fn sync_data(&self) -> io::Result<()>;
    /// Flushes data and all metadata to stable storage.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts the file or grows it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// What a world offers for names. Implemented by the worlds; used through [`Env`].
pub trait RawFileSystem: Send + Sync {
    /// Creates a file for reading and writing; fails if the name exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn RawFile>>;
    /// Opens an existing file, for writing too if `write`.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn RawFile>>;
    /// The one absolute path, without links or `..`, of what exists under `path`.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// Renames, replacing what stood under `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents; succeeds if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on `path` (created if missing), held until the value is dropped.
    /// `WouldBlock` if another holder lives.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: String,
    /// Length in bytes (0 for a directory).
    pub len: u64,
    /// A directory rather than a file.
    pub is_dir: bool,
}

/// An exclusive lock on a file; released on drop, and by the system when the process dies.
pub struct FileLock {
    _held: Box<dyn Send + Sync>,
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileLock")
    }
}

/// An open file. Clones share it.
#[derive(Clone)]
pub struct File {
    env: Env,
    raw: Arc<dyn RawFile>,
    path: Arc<Path>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.path.display())
    }
}

impl File {
    /// The path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fail(&self, op: Op) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::new(op, &self.path, source)
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        self.env.point();
        let mut done = 0;
        while done < buf.len() {
            match self.raw.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::new(Op::Read, &self.path, e)),
            }
        }
        Ok(done)
    }

    /// Fills `buf` from `offset`; an error of kind `UnexpectedEof` if the file ends before.
    pub fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let got = self.read_at(buf, offset)?;
        if got < buf.len() {
            let text = format!("wanted {} bytes at offset {offset}, the file ends after {got}", buf.len());
            return Err(Error::new(Op::Read, &self.path, io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        Ok(())
    }

    /// Writes all of `data` at `offset`, growing the file if needed. After an error any part of
    /// it may have been written.
    pub fn write_all_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.env.point();
        let mut done = 0;
        while done < data.len() {
            match self.raw.write_at(&data[done..], offset + done as u64) {
                Ok(0) => {
                    let e = io::Error::new(io::ErrorKind::WriteZero, "the system wrote nothing");
                    return Err(Error::new(Op::Write, &self.path, e));
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::new(Op::Write, &self.path, e)),
            }
        }
        Ok(())
    }

    /// Makes the content durable (`fdatasync`). After an error nothing is known about what the
    /// disk holds, and a later success proves nothing: never retry.
    pub fn sync_data(&self) -> Result<()> {
        self.env.point();
        self.raw.sync_data().map_err(self.fail(Op::Sync))
    }

    /// Makes content and metadata durable (`fsync`). The warning of [`File::sync_data`] holds.
    pub fn sync_all(&self) -> Result<()> {
        self.env.point();
        self.raw.sync_all().map_err(self.fail(Op::Sync))
    }

    /// Cuts the file, or grows it with zeros.
    pub fn set_len(&self, len: u64) -> Result<()> {
        self.env.point();
        self.raw.set_len(len).map_err(self.fail(Op::SetLen))
    }

    /// Its length in bytes.
    pub fn len(&self) -> Result<u64> {
        self.env.point();
        self.raw.len().map_err(self.fail(Op::Stat))
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Names and files.
impl Env {
    fn opened(&self, op: Op, path: &Path, raw: io::Result<Arc<dyn RawFile>>) -> Result<File> {
        match raw {
            Ok(raw) => Ok(File { env: self.clone(), raw, path: Arc::from(path) }),
            Err(e) => Err(Error::new(op, path, e)),
        }
    }

    /// Creates a file for reading and writing; an error if the name exists. Its name is durable
    /// only after [`Env::sync_dir`].
    pub fn create(&self, path: &Path) -> Result<File> {
        self.point();
        self.opened(Op::Create, path, self.fs().create(path))
    }

    /// Opens an existing file for reading.
    pub fn open(&self, path: &Path) -> Result<File> {
        self.point();
        self.opened(Op::Open, path, self.fs().open(path, false))
    }

    /// Opens an existing file for reading and writing.
    pub fn open_writable(&self, path: &Path) -> Result<File> {
        self.point();
        self.opened(Op::Open, path, self.fs().open(path, true))
    }

    /// Reads a whole file, or says that it is longer than `max_bytes`.
    pub fn read_file(&self, path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = file.len()?;
        if len > max_bytes {
            let text = format!("it holds {len} bytes; at most {max_bytes} are expected");
            return Err(Error::new(Op::Read, path, io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The one absolute path, without links or `..`, of a file or directory that exists: two paths
    /// lead to the same place if they are equal once resolved.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        self.point();
        self.fs().resolve(path).map_err(|e| Error::new(Op::Stat, path, e))
    }

    /// Renames a file or directory, replacing what stood under `to`: a file, or an empty directory.
    /// Durable after [`Env::sync_dir`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.point();
        self.fs().rename(from, to).map_err(|e| Error::new(Op::Rename, from, e))
    }

    /// Removes a file. Durable after [`Env::sync_dir`].
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.point();
        self.fs().remove(path).map_err(|e| Error::new(Op::Remove, path, e))
    }

    /// Creates a directory and its parents; succeeds if it exists.
    pub fn create_dir_all(&self, path: &Path) -> Result<()> {
        self.point();
        self.fs().create_dir_all(path).map_err(|e| Error::new(Op::CreateDir, path, e))
    }

    /// The entries of a directory, sorted by name.
    pub fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.point();
        let mut entries = self.fs().list(path).map_err(|e| Error::new(Op::List, path, e))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Makes creations, renames and removals in a directory durable.
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.point();
        self.fs().sync_dir(path).map_err(|e| Error::new(Op::SyncDir, path, e))
    }

    /// Takes an exclusive lock on `path`, creating the file if needed;
    /// [`Error::is_locked`] when another holder lives.
    pub fn lock(&self, path: &Path) -> Result<FileLock> {
        self.point();
        let held = self.fs().lock(path).map_err(|e| Error::new(Op::Lock, path, e))?;
        Ok(FileLock { _held: held })
    }

    /// Writes `bytes` under `path` so that after a crash either the old or the new content
    /// stands there whole: a temporary file beside it, fsync, rename, fsync of the directory.
    pub fn replace_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        match self.remove(&temporary) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        if crate::mutant("renamed-before-sync") {
            self.rename(&temporary, path)?;
            file.sync_all()?;
        } else {
            file.sync_all()?;
            self.rename(&temporary, path)?;
        }
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }
}
