//! Looks through fjall's journals before fjall does.
//!
//! fjall ends a journal at the first batch that is not whole and forgets what lies behind it. That is
//! right for the last batch before a crash; for a damaged disk it would mean to lose, without a word,
//! what was promised. So what is not whole is looked at here: nothing but zeros behind it is room
//! that was not used yet, nothing whole behind it is a torn end, and anything else is damage.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use super::engine::EngineError;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const TRAILER: &[u8] = b"FJL\x03";
/// Bytes of an item before its key: tag, type, compression, tree, length of the key, and of the
/// value twice.
const ITEM_HEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// What to do with damage that may be a crash's or the disk's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// Every batch was synced before the next one was written: it is the disk's. Refuse.
    Refuse,
    /// Batches were written without a sync, and the machine may have stopped before all of them
    /// reached the disk: end the journal there.
    CutOff,
    /// Keep all batches that are whole.
    Salvage,
}

/// Looks through all journals in a folder, oldest first. Torn ends are cut off.
pub(super) fn check(folder: &Path, damage: Damage) -> Result<(), EngineError> {
    let journals = journals(folder)?;
    for (nth, path) in journals.iter().enumerate() {
        let is_last = nth + 1 == journals.len();
        check_one(path, is_last, damage)?;
    }
    Ok(())
}

/// Its journals, oldest first.
fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    if folder.try_exists()? {
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".jnl"));
            if let Some(Ok(number)) = number.map(str::parse) {
                found.push((number, path));
            }
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn check_one(path: &Path, is_last: bool, damage: Damage) -> Result<(), EngineError> {
    let bytes = fs::read(path)?;
    let whole = whole_until(&bytes);
    let rest = bytes.get(whole..).unwrap_or_default();
    let Some(used) = rest.iter().rposition(|&byte| byte != 0) else { return Ok(()) };
    let behind = batches(&bytes, whole);
    let name = path.display();
    if is_last && (behind.is_empty() || damage == Damage::CutOff) {
        let bytes = used.saturating_add(1);
        warn!(
            bytes,
            batches = behind.len(),
            "the machine stopped while {name} was written: its end is not complete and is left out"
        );
        let file = File::options().write(true).open(path)?;
        file.set_len(whole as u64)?;
        return Ok(file.sync_all()?);
    }
    if damage != Damage::Salvage {
        return Err(EngineError::Damaged(format!(
            "{name} is not readable from byte {whole} on, {} whole batches lie behind that",
            behind.len()
        )));
    }
    warn!(
        batches = behind.len(),
        "{name} is not readable at byte {whole}, what lies behind is kept"
    );
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes.get(..whole).unwrap_or_default())?;
    for batch in behind {
        file.write_all(bytes.get(batch).unwrap_or_default())?;
    }
    file.sync_all()?;
    Ok(fs::rename(new, path)?)
}

/// Where the first batch begins that is not whole, or not newer than the one before it: the hash does
/// not cover how new a batch is.
fn whole_until(bytes: &[u8]) -> usize {
    let (mut whole, mut newest) = (0, None);
    while let Some(batch) = batch(bytes, whole) {
        let number = bytes.get(batch.start + 5..).and_then(|bytes| bytes.first_chunk());
        let number = number.copied().map(u64::from_le_bytes);
        if newest.is_some() && number <= newest {
            break;
        }
        (whole, newest) = (batch.end, number);
    }
    whole
}

/// All whole batches from some byte on, wherever they begin.
fn batches(bytes: &[u8], mut from: usize) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    while let Some(rest) = bytes.get(from..) {
        if let Some(batch) = batch(bytes, from) {
            from = batch.end;
            found.push(batch);
            continue;
        }
        let next = rest.iter().skip(1).position(|&byte| byte == START);
        let Some(next) = next else { break };
        from = from.saturating_add(next).saturating_add(1);
    }
    found
}

/// The batch that begins at a byte, if there is one and it is whole: start, items, and an end with
/// the hash of the items.
fn batch(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let (&START, head) = bytes.get(at..)?.split_first()? else { return None };
    let count = u32::from_le_bytes(head.first_chunk().copied()?);
    let items = head.get(12..)?;
    let mut rest = items;
    for _ in 0..count {
        rest = rest.get(item(rest)?..)?;
    }
    let items = items.get(..items.len() - rest.len())?;
    let (&END, end) = rest.split_first()? else { return None };
    let (hash, trailer) = end.split_first_chunk()?;
    let is_whole = trailer.starts_with(TRAILER) && u64::from_le_bytes(*hash) == xxh3_64(items);
    let len = 1 + 12 + items.len() + 1 + 8 + TRAILER.len();
    is_whole.then(|| at..at + len)
}

/// The length of the item at the beginning of `bytes`.
fn item(bytes: &[u8]) -> Option<usize> {
    if bytes.first() != Some(&ITEM) {
        return None;
    }
    let key = u16::from_le_bytes(bytes.get(11..)?.first_chunk().copied()?);
    let value = u32::from_le_bytes(bytes.get(17..)?.first_chunk().copied()?);
    ITEM_HEAD.checked_add(usize::from(key))?.checked_add(value as usize)
}
