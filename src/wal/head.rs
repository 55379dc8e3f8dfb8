//! The head: what the log is, and what outlives its deleted segments. Drawn in the module's story.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write as _},
};

use super::{
    CarriedDigest, Damage, FORMAT_VERSION, LogId, RecordNumber, WalError,
    directory::Directory,
    error::Result,
    frame::{u32_at, u64_at, u128_at},
};
use crate::{crashpoint, model::tenant::TenantId};

const FILE: &str = "head";
const FILE_NEXT: &str = "head.new";
const MAGIC: &[u8; 8] = b"THWALHED";
const FIXED_BYTES: usize = 44;
const CHECKSUM_BYTES: usize = 4;

/// The content of the head file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: LogId,
    /// Sequence of the first frame that is kept; what lies below it is waiting to be deleted.
    pub(super) first_sequence: u64,
    /// The last number ever given to each tenant, when the head was written.
    pub(super) last_numbers: BTreeMap<TenantId, RecordNumber>,
    /// What the deleted records are still needed for.
    pub(super) digests: Vec<CarriedDigest>,
}

impl Head {
    /// The head of an empty log.
    pub(super) fn new(id: LogId) -> Self {
        Self { id, first_sequence: 1, last_numbers: BTreeMap::new(), digests: Vec::new() }
    }

    /// Reads the head, if there is one.
    pub(super) fn read(directory: &Directory) -> Result<Option<Self>> {
        let path = directory.path().join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WalError::io("read", &path)(error)),
        };
        match Self::decode(&bytes) {
            Ok(head) => Ok(Some(head)),
            Err(HeadError::Version { found }) => Err(WalError::Version { path, found, supported: FORMAT_VERSION }),
            Err(HeadError::Damaged(damage)) => Err(WalError::Damaged { path, offset_bytes: 0, damage }),
        }
    }

    /// Takes the place of the head on disk, at once and durably. After an error, either of the two is there.
    pub(super) fn write(&self, directory: &Directory) -> Result<()> {
        let (path, next) = (directory.path().join(FILE), directory.path().join(FILE_NEXT));
        let mut file = File::create(&next).map_err(WalError::io("create", &next))?;
        crashpoint::io("wal.head.write")
            .and_then(|()| file.write_all(&self.encode()))
            .and_then(|()| file.sync_all())
            .map_err(WalError::io("write", &next))?;
        crashpoint::synced(&next);
        crashpoint::hit("wal.head.written");
        fs::rename(&next, &path).map_err(WalError::io("replace", &path))?;
        directory.sync().map_err(WalError::io("sync", directory.path()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut tenants: BTreeMap<&TenantId, RecordNumber> =
            self.last_numbers.iter().map(|(tenant, number)| (tenant, *number)).collect();
        for digest in &self.digests {
            tenants.entry(&digest.tenant).or_default();
        }
        let index: BTreeMap<&TenantId, u32> = tenants.keys().copied().zip(0..).collect();
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        out.extend_from_slice(&(tenants.len() as u32).to_le_bytes());
        out.extend_from_slice(&(self.digests.len() as u32).to_le_bytes());
        for (tenant, number) in &tenants {
            out.push(tenant.as_str().len() as u8);
            out.extend_from_slice(tenant.as_str().as_bytes());
            out.extend_from_slice(&number.get().to_le_bytes());
        }
        for digest in &self.digests {
            out.extend_from_slice(&index[&digest.tenant].to_le_bytes());
            out.extend_from_slice(&digest.digest.to_le_bytes());
            out.extend_from_slice(&digest.received_unix_nano.to_le_bytes());
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() < FIXED_BYTES + CHECKSUM_BYTES || bytes[..8] != MAGIC[..] {
            return Err(HeadError::Damaged(Damage::Header));
        }
        // Before the checksum, whose place a newer version may have changed.
        let version = u32_at(bytes, 8);
        if version > FORMAT_VERSION {
            return Err(HeadError::Version { found: version });
        }
        let (signed, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
        if crc32c::crc32c(signed) != u32_at(checksum, 0) {
            return Err(HeadError::Damaged(Damage::Checksum));
        }
        Self::decode_signed(signed).ok_or(HeadError::Damaged(Damage::Content { what: "the content of the head" }))
    }

    fn decode_signed(bytes: &[u8]) -> Option<Self> {
        let id = LogId::from_bytes(bytes[12..28].try_into().ok()?);
        let first_sequence = u64_at(bytes, 28);
        let (tenant_count, digest_count) = (u32_at(bytes, 36), u32_at(bytes, 40));
        let mut rest = Rest(&bytes[FIXED_BYTES..]);
        let mut tenants = Vec::new();
        for _ in 0..tenant_count {
            let length = rest.take(1)?[0];
            let name = std::str::from_utf8(rest.take(length.into())?).ok()?;
            let number = RecordNumber::new(u64_at(rest.take(8)?, 0));
            tenants.push((TenantId::parse(name).ok()?, number));
        }
        let mut digests = Vec::new();
        for _ in 0..digest_count {
            let (tenant, _) = tenants.get(u32_at(rest.take(4)?, 0) as usize)?;
            let digest = u128_at(rest.take(16)?, 0);
            let received_unix_nano = u64_at(rest.take(8)?, 0) as i64;
            digests.push(CarriedDigest { tenant: tenant.clone(), digest, received_unix_nano });
        }
        let is_whole = rest.0.is_empty() && first_sequence > 0;
        is_whole.then(|| Self { id, first_sequence, last_numbers: tenants.into_iter().collect(), digests })
    }
}

/// Why bytes are not a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    Version { found: u32 },
    Damaged(Damage),
}

/// What is left to decode.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let (a, b) = (TenantId::parse("a").unwrap(), TenantId::parse("b").unwrap());
        Head {
            id: LogId::from_bytes([3; 16]),
            first_sequence: 77,
            last_numbers: [(a, RecordNumber::new(5)), (b.clone(), RecordNumber::new(9))].into(),
            digests: vec![CarriedDigest { tenant: b, digest: 1 << 127, received_unix_nano: -1 }],
        }
    }

    #[test]
    fn a_head_comes_back_as_it_was_encoded() {
        assert_eq!(Head::decode(&head().encode()).unwrap(), head());
    }

    #[test]
    fn a_head_with_a_flipped_bit_or_a_missing_end_is_refused() {
        let bytes = head().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Head::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }
}
