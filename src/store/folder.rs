//! The data folder: one broker's alone, and of a format that this program knows.
//!
//! It holds a file that is locked while a broker uses the folder, and a folder that is named for the
//! format. That one is made under another name and gets its own when it is complete.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::OpenError;

/// The format that this program reads and writes.
const FORMAT: u32 = 1;
const LOCK: &str = "lock";
const PREFIX: &str = "store-";
const NEW: &str = ".new";

/// A data folder that is this process's as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if there is none, and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let refused = |source| OpenError::Folder { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(refused)?;
        // Looked for first: a folder that is not ours gets no lock file.
        Self::check(path)?;
        let mut options = OpenOptions::new();
        let mut lock = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK))
            .map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                _ = lock.read_to_string(&mut owner);
                return Err(OpenError::InUse { path: path.to_owned(), owner: owner.trim().into() });
            }
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        lock.set_len(0).map_err(refused)?;
        writeln!(lock, "{}", std::process::id()).map_err(refused)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Refuses a folder of a format that is not known, and one that holds something else.
    fn check(path: &Path) -> Result<(), OpenError> {
        let refused = |source| OpenError::Folder { path: path.to_owned(), source };
        let (mut is_store, mut other) = (false, None);
        for entry in fs::read_dir(path).map_err(refused)? {
            let name = entry.map_err(refused)?.file_name();
            let name = name.to_string_lossy();
            let format = name.strip_prefix(PREFIX).filter(|rest| !rest.ends_with(NEW));
            match format.map(str::parse) {
                Some(Ok(FORMAT)) => is_store = true,
                Some(format) => {
                    let found = format.unwrap_or(0);
                    return Err(OpenError::Format { path: path.to_owned(), found });
                }
                None if name == LOCK || name == "lost+found" || name.starts_with(PREFIX) => {}
                None => other = Some(name.into_owned()),
            }
        }
        match other {
            Some(found) if !is_store => Err(OpenError::NotEmpty { path: path.to_owned(), found }),
            _ => Ok(()),
        }
    }

    /// Where the engine keeps its files; `make` is called for a folder to make them in, if there
    /// are none.
    pub(super) fn engine(
        &self,
        make: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<PathBuf, OpenError> {
        let refused = |source| OpenError::Folder { path: self.path.clone(), source };
        let complete = self.path.join(format!("{PREFIX}{FORMAT}"));
        let new = self.path.join(format!("{PREFIX}{FORMAT}{NEW}"));
        remove_if_there(&new).map_err(refused)?;
        if !complete.try_exists().map_err(refused)? {
            make(&new)?;
            fs::rename(&new, &complete).map_err(refused)?;
            File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(refused)?;
        }
        Ok(complete)
    }
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
