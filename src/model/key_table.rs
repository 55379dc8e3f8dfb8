//! A lookup of attribute keys that costs a few nanoseconds, for the one question that a decoder asks per attribute.
//!
//! The set is small and fixed, and a key outside of it is the common answer, so one multiplication over the first and
//! the last eight bytes and a probe of a sparse table decide; a full comparison confirms. The keys come from the
//! operator, never from the wire, so nobody can fill the table with collisions.

use std::sync::Arc;

/// Keys and the numbers they stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyTable {
    /// Open addressing with linear probing; the length is a power of two, at least four times the number of keys.
    slots: Vec<Option<Slot>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Slot {
    hash: u64,
    key: Arc<str>,
    number: usize,
}

impl KeyTable {
    /// Adds a key, or gives it another number.
    pub(crate) fn insert(&mut self, key: &Arc<str>, number: usize) {
        if self.slots.len() < 4 * (self.len + 1) {
            self.grow();
        }
        let hash = hash(key);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(slot) = &mut self.slots[at] {
            if slot.key == *key {
                slot.number = number;
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = Some(Slot { hash, key: Arc::clone(key), number });
        self.len += 1;
    }

    /// The number of a key.
    #[inline]
    pub(crate) fn get(&self, key: &str) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = hash(key);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        // Ends at an empty slot: three quarters of the table are.
        while let Some(slot) = &self.slots[at] {
            if slot.hash == hash && *slot.key == *key {
                return Some(slot.number);
            }
            at = (at + 1) & mask;
        }
        None
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![None; (2 * old.len()).max(16)];
        let mask = self.slots.len() - 1;
        for slot in old.into_iter().flatten() {
            let mut at = slot.hash as usize & mask;
            while self.slots[at].is_some() {
                at = (at + 1) & mask;
            }
            self.slots[at] = Some(slot);
        }
    }
}

#[inline]
fn hash(key: &str) -> u64 {
    const K0: u64 = 0x9e37_79b9_7f4a_7c15;
    const K1: u64 = 0xd6e8_feb8_6659_fd93;
    let bytes = key.as_bytes();
    let (first, last) = if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)))
    } else {
        (bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), 0)
    };
    let mixed = (first ^ K0 ^ (bytes.len() as u64) << 56).wrapping_mul(K1) ^ last;
    let mixed = mixed.wrapping_mul(K0);
    mixed ^ mixed >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inserted_key_is_found_and_no_other() {
        let mut table = KeyTable::default();
        assert_eq!(table.get("a"), None);
        let key = |n: usize| Arc::<str>::from(format!("{}key.{n}", "x".repeat(n % 11)));
        for n in 0..300 {
            table.insert(&key(n), n);
        }
        for n in 0..300 {
            assert_eq!(table.get(&key(n)), Some(n));
            assert_eq!(table.get(&key(n + 300)), None);
        }
        table.insert(&key(7), 1000);
        assert_eq!(table.get(&key(7)), Some(1000));
        assert_eq!(table.get(""), None);
    }
}
