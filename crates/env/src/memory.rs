//! Files in memory: the semantics of a local file system without one. No faults, nothing to
//! lose; sync does nothing. For those, see the simulated disk.
//!
//! One lock guards the names, one each file's content; neither is held while waiting for the
//! other. Relative paths start at the root.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::file::{DirEntry, RawFile, RawFileSystem};
use crate::image::Image;

type Names = BTreeMap<OsString, Node>;

enum Node {
    Dir(Names),
    File(Arc<Content>),
}

#[derive(Default)]
struct Content {
    image: RwLock<Image>,
    locked: AtomicBool,
}

/// A whole file system in memory.
#[derive(Default)]
pub(crate) struct MemoryFiles {
    root: Mutex<Names>,
}

struct Handle {
    content: Arc<Content>,
    writable: bool,
}

struct Held(Arc<Content>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

/// The names on the way from the root to `path`.
pub(crate) fn steps(path: &Path) -> io::Result<Vec<&OsStr>> {
    if path.as_os_str().is_empty() {
        return Err(not_found());
    }
    let mut steps = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => steps.push(name),
            Component::ParentDir => {
                steps.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(steps)
}

/// What Linux answers to a write on a file opened for reading.
pub(crate) fn not_writable() -> io::Error {
    io::Error::from_raw_os_error(9) // EBADF
}

pub(crate) fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

fn is_a_directory() -> io::Error {
    io::Error::from(io::ErrorKind::IsADirectory)
}

fn not_a_directory() -> io::Error {
    io::Error::from(io::ErrorKind::NotADirectory)
}

/// The directory at the end of `steps`.
fn walk<'a>(root: &'a mut Names, steps: &[&OsStr]) -> io::Result<&'a mut Names> {
    let mut at = root;
    for step in steps {
        at = match at.get_mut(*step) {
            Some(Node::Dir(names)) => names,
            Some(Node::File(_)) => return Err(not_a_directory()),
            None => return Err(not_found()),
        };
    }
    Ok(at)
}

/// The directory that holds the last of `steps`, and that last name.
fn parent<'a, 'p>(root: &'a mut Names, steps: &[&'p OsStr]) -> io::Result<(&'a mut Names, &'p OsStr)> {
    let (last, above) = steps.split_last().ok_or_else(is_a_directory)?;
    Ok((walk(root, above)?, last))
}

impl MemoryFiles {
    fn root(&self) -> MutexGuard<'_, Names> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `steps` as an absolute path.
pub(crate) fn absolute(steps: &[&OsStr]) -> PathBuf {
    Path::new("/").join(steps.iter().collect::<PathBuf>())
}

impl RawFileSystem for MemoryFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn RawFile>> {
        let mut root = self.root();
        let (names, name) = parent(&mut root, &steps(path)?)?;
        if names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let content = Arc::new(Content::default());
        names.insert(name.to_owned(), Node::File(content.clone()));
        Ok(Arc::new(Handle { content, writable: true }))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn RawFile>> {
        let mut root = self.root();
        let (names, name) = parent(&mut root, &steps(path)?)?;
        match names.get(name) {
            Some(Node::File(content)) => Ok(Arc::new(Handle { content: content.clone(), writable: write })),
            Some(Node::Dir(_)) => Err(is_a_directory()),
            None => Err(not_found()),
        }
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let steps = steps(path)?;
        if !steps.is_empty() {
            let mut root = self.root();
            let (names, name) = parent(&mut root, &steps)?;
            names.get(name).ok_or_else(not_found)?;
        }
        Ok(absolute(&steps))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (from_steps, to_steps) = (steps(from)?, steps(to)?);
        let (names, name) = parent(&mut root, &from_steps)?;
        let from_is_dir = match names.get(name) {
            Some(Node::Dir(_)) => true,
            Some(Node::File(_)) => false,
            None => return Err(not_found()),
        };
        if from_steps == to_steps {
            return Ok(());
        }
        if from_is_dir && to_steps.starts_with(&from_steps) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let (to_names, to_name) = parent(&mut root, &to_steps)?;
        match (to_names.get(to_name), from_is_dir) {
            (Some(Node::Dir(_)), false) => return Err(is_a_directory()),
            (Some(Node::File(_)), true) => return Err(not_a_directory()),
            (Some(Node::Dir(inside)), true) if !inside.is_empty() => {
                return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
            }
            _ => {}
        }
        let (names, name) = parent(&mut root, &from_steps)?;
        let node = names.remove(name).ok_or_else(not_found)?;
        let (names, name) = parent(&mut root, &to_steps)?;
        names.insert(name.to_owned(), node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let (names, name) = parent(&mut root, &steps(path)?)?;
        match names.get(name) {
            Some(Node::File(_)) => {
                names.remove(name);
                Ok(())
            }
            Some(Node::Dir(_)) => Err(is_a_directory()),
            None => Err(not_found()),
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut root = self.root();
        let mut at = &mut *root;
        for step in steps(path)? {
            let node = at.entry(step.to_owned()).or_insert_with(|| Node::Dir(Names::new()));
            at = match node {
                Node::Dir(names) => names,
                Node::File(_) => return Err(not_a_directory()),
            };
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut root = self.root();
        let names = walk(&mut root, &steps(path)?)?;
        let entry = |(name, node): (&OsString, &Node)| {
            let (len, is_dir) = match node {
                Node::Dir(_) => (0, true),
                Node::File(content) => (content.len(), false),
            };
            DirEntry { name: name.to_string_lossy().into_owned(), len, is_dir }
        };
        Ok(names.iter().map(entry).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        walk(&mut self.root(), &steps(path)?)?;
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut root = self.root();
        let (names, name) = parent(&mut root, &steps(path)?)?;
        let node = names.entry(name.to_owned()).or_insert_with(|| Node::File(Arc::default()));
        let Node::File(content) = node else { return Err(is_a_directory()) };
        if content.locked.swap(true, Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(Held(content.clone())))
    }
}

impl Content {
    fn len(&self) -> u64 {
        self.image.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Handle {
    fn change(&self, change: impl FnOnce(&mut Image) -> io::Result<()>) -> io::Result<()> {
        if !self.writable {
            return Err(not_writable());
        }
        change(&mut self.content.image.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RawFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.content.image.read().unwrap_or_else(PoisonError::into_inner).read(buf, offset))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.change(|image| image.write(data, offset))?;
        Ok(data.len())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|image| image.set_len(len))
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.len())
    }
}
