//! The data directory: where the node keeps its identity and, later, its streams.
//!
//! Owns its creation and the lock that keeps a second node out of it. What stands in it belongs to
//! those who write it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file that is locked. It is never removed: its name would then stand for two files.
const LOCK_FILE: &str = "node.lock";

/// Why a directory cannot be the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another node runs in it. Whoever started this one is at fault.
    #[error(
        "the data directory {} is in use by another node{}; two nodes in one directory would share one identity. \
         Stop that node, or give this one a directory of its own with --data-dir",
        path.display(), holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as that process has written it down.
        holder: Option<String>,
    },
    /// The directory that it should be made in does not exist.
    #[error(
        "cannot create the data directory {}: {} does not exist. Create it, or name another directory with --data-dir",
        path.display(), parent.display()
    )]
    NoParent {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        parent: PathBuf,
    },
    /// Something else than a directory has its name.
    #[error("the data directory {} is not a directory; name another one with --data-dir", path.display())]
    NotADirectory {
        /// What is there.
        path: PathBuf,
    },
    /// It, or the directory around it, cannot be written to.
    #[error("cannot write to the data directory {}: {reason}. Name another directory with --data-dir", path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// Anything else that the operating system refuses.
    #[error("cannot open the data directory {}: {reason}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
}

/// A data directory that this process holds until the value is dropped. The operating system frees it too
/// when the process ends in any other way.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Keeps the lock; closing the file frees it.
    _lock: File,
}

impl DataDir {
    /// Creates the directory, for its owner only, when it is not there, and locks it.
    ///
    /// # Errors
    /// Says which directory cannot be used, why, and what to do.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        create(path)?;
        let file_path = path.join(LOCK_FILE);
        // Not truncated: until the lock is ours the number in it is another node's.
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file_path);
        let mut lock = opened.map_err(|reason| refused(path, reason))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let written = std::fs::read_to_string(&file_path).unwrap_or_default();
                let holder = Some(written.trim()).filter(|text| text.parse::<u32>().is_ok());
                return Err(DataDirError::InUse { path: path.to_owned(), holder: holder.map(str::to_owned) });
            }
            Err(TryLockError::Error(reason)) => {
                return Err(DataDirError::Io { path: path.to_owned(), reason });
            }
        }
        // Only a hint for people; the lock is what counts.
        let pid = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        pid.map_err(|reason| refused(path, reason))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The process that holds a data directory now; `None` when nobody does.
    ///
    /// # Errors
    /// When the directory cannot be looked into.
    pub fn holder(path: &Path) -> Result<Option<u32>, DataDirError> {
        let file_path = path.join(LOCK_FILE);
        let file = match File::open(&file_path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(reason) => return Err(DataDirError::Io { path: path.to_owned(), reason }),
        };
        // A number that nobody locks is of a process that has ended, and may be another one's by now.
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => {
                Ok(std::fs::read_to_string(&file_path).ok().and_then(|text| text.trim().parse().ok()))
            }
            Err(TryLockError::Error(reason)) => Err(DataDirError::Io { path: path.to_owned(), reason }),
        }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn create(path: &Path) -> Result<(), DataDirError> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.is_dir() {
                Ok(())
            } else {
                Err(DataDirError::NotADirectory { path: path.to_owned() })
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path).to_owned();
            Err(DataDirError::NoParent { path: path.to_owned(), parent })
        }
        Err(reason) => Err(refused(path, reason)),
    }
}

fn refused(path: &Path, reason: io::Error) -> DataDirError {
    let path = path.to_owned();
    match reason.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull => {
            DataDirError::NotWritable { path, reason }
        }
        _ => DataDirError::Io { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_refused_until_the_first_is_gone() {
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("data");
        let first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        assert_eq!(DataDir::holder(&path).unwrap(), Some(std::process::id()));
        drop(first);
        assert_eq!(DataDir::holder(&path).unwrap(), None);
        assert_eq!(DataDir::holder(around.path()).unwrap(), None);
        DataDir::open(&path).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn it_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let around = tempfile::tempdir().unwrap();
        let path = around.path().join("data");
        let _held = DataDir::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let around = tempfile::tempdir().unwrap();
        let missing = around.path().join("no").join("data");
        let error = DataDir::open(&missing).unwrap_err().to_string();
        assert!(error.contains(&format!("{} does not exist", around.path().join("no").display())), "{error}");
        let file = around.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory { .. })));
        assert!(matches!(DataDir::open(&file.join("data")), Err(DataDirError::Io { .. })));
    }

    #[test]
    fn a_refusal_to_write_names_the_directory() {
        // Root may write anywhere, so the refusal itself is given instead of provoked.
        let error = refused(Path::new("/data"), io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        assert!(error.to_string().starts_with("cannot write to the data directory /data: "), "{error}");
    }
}
