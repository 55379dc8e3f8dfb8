//! Whether a file still is what was written, before anything is made of it.
//!
//! A flipped bit in an uncompressed page is another number, and no error. In a merged file it would have a checksum of
//! its own, and the last trace of the damage would be gone with the input. So all bytes of an input are read once, in
//! order, and compared with the checksum in the table's log. Small inputs stay in memory, so that a bucket is asked for them once.

use bytes::Bytes;

use crate::{
    catalog::LiveFile,
    error::{Error, ErrorKind, Result},
    storage::store::Store,
};

/// Bytes of inputs that a merge holds in memory; larger ones are read again where their rows are needed.
pub(super) const HELD_BYTES_MAX: u64 = 32 << 20;

/// Bytes of a large file that are in memory at once.
const PART_BYTES: u64 = 8 << 20;

/// Reads a file and compares it with what the table says; returns its bytes if there is room for them in `room_bytes`, which gets
/// smaller by them.
///
/// # Errors
/// `Corrupt` if it is not what was written; else the store fails, or does not have the file.
pub(super) async fn read_checked(store: &Store, file: &LiveFile, room_bytes: &mut u64) -> Result<Option<Bytes>> {
    if file.size_bytes <= *room_bytes {
        let Some(bytes) = store.get(&file.location).await? else {
            let message = format!("file {} is live and not in the store", file.location);
            return Err(Error::new(ErrorKind::Unavailable, message));
        };
        check(file, bytes.len() as u64, crc32c::crc32c(&bytes))?;
        *room_bytes -= file.size_bytes;
        return Ok(Some(bytes));
    }
    let (mut checksum, mut read) = (0, 0);
    while read < file.size_bytes {
        let part = store.get_range(&file.location, read..file.size_bytes.min(read + PART_BYTES)).await?;
        if part.is_empty() {
            break;
        }
        checksum = crc32c::crc32c_append(checksum, &part);
        read += part.len() as u64;
    }
    check(file, read, checksum)?;
    Ok(None)
}

fn check(file: &LiveFile, size_bytes: u64, checksum: u32) -> Result<()> {
    let Some(difference) = file.differences(size_bytes, checksum).into_iter().next() else { return Ok(()) };
    let message = format!("file {} is damaged: it {difference}; it stays as it is", file.location);
    Err(Error::new(ErrorKind::Corrupt, message))
}
