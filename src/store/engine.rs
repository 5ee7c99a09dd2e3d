//! What the store asks of a storage engine: an ordered map of bytes to bytes that takes many writes
//! together or not at all.
//!
//! It is a trait so that tests can put an engine in its place that fails when told to.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use thiserror::Error;

/// An ordered map of keys to values. Keys begin with one of [`keys`](super::keys)' kinds.
pub(super) trait Engine: Send {
    /// The value of a key, if there is one.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The entries whose keys lie in `range`, in order, as they are now. Both ends have the same
    /// kind. After an error nothing more comes.
    fn scan(&self, range: Range<Vec<u8>>) -> Scan<'_>;

    /// Makes all of these writes or none of them. Each key is named once. When it returns they are
    /// seen by every later read, and a crash of the process does not undo them; one of the machine
    /// may. After an error the engine takes no more writes.
    fn write(&mut self, writes: Vec<Write>) -> Result<(), EngineError>;

    /// Makes all that was written survive a crash of the machine. After an error the engine takes
    /// no more writes.
    fn sync(&mut self) -> Result<(), EngineError>;

    /// Called now and then after writes: frees space, where that is worth the effort. `deliveries`
    /// is how many there are. Says whether it is still at it and wants to be called again.
    fn upkeep(&mut self, deliveries: usize) -> Result<bool, EngineError>;
}

/// What a scan finds.
pub(super) type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + 'a>;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    /// There is such an entry now, whatever was there before.
    Put(Vec<u8>, Vec<u8>),
    /// There is none any more.
    Remove(Vec<u8>),
    /// There is none any more, and it was put no more than once since it was last removed.
    RemoveOnce(Vec<u8>),
}

/// Why an engine could not do what it was told.
#[derive(Debug, Error)]
pub(super) enum EngineError {
    /// The operating system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What is on disk is not what was written.
    #[error("the data on disk is damaged: {0}")]
    Damaged(String),
    /// An earlier error, in this process, is what it suffers from.
    #[error("the storage engine has failed earlier, in the background: {0}")]
    Failed(String),
}
