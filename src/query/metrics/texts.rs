//! Texts by number, for what counts very many of them: one buffer holds all, and their hashes are kept, so that neither growing nor
//! adding two of these up reads a text again that is new.
//!
//! ```text
//!  bytes   "GET /aPOST /bGET /c"     ends 6, 13, 19     hashes, codes: one per text
//!  slots   - 2 - - 1 - 3 -           numbers of texts from 1 on, at the place that the hash says or behind it
//! ```

use std::{hash::BuildHasher, sync::LazyLock};

use datafusion::common::HashMap;

/// What the hasher of this map makes of texts: one for all, so that hashes can be handed on, and nobody outside knows it.
static HASHING: LazyLock<HashMap<(), ()>> = LazyLock::new(HashMap::default);

/// The hash of a text.
pub(super) fn hash_of(text: &str) -> u64 {
    HASHING.hasher().hash_one(text.as_bytes())
}

/// Texts, each with its hash and a code.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: String,
    ends: Vec<usize>,
    hashes: Vec<u64>,
    codes: Vec<u32>,
    /// A power of two of them, at most half of them taken.
    slots: Vec<u32>,
}

impl Texts {
    /// The code of a text with this hash; `new`, if it was not there, and is then.
    pub(super) fn code_or(&mut self, hash: u64, text: &str, new: u32) -> u32 {
        if (self.codes.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 {
            let known = self.slots[at] as usize - 1;
            if self.hashes[known] == hash && self.text(known) == text {
                return self.codes[known];
            }
            at = (at + 1) & mask;
        }
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
        self.hashes.push(hash);
        self.codes.push(new);
        self.slots[at] = self.codes.len() as u32;
        new
    }

    fn grow(&mut self) {
        let mask = (self.slots.len() * 2).max(16) - 1;
        let mut slots = vec![0; mask + 1];
        for (number, hash) in (1_u32..).zip(&self.hashes) {
            let mut at = *hash as usize & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = number;
        }
        self.slots = slots;
    }

    fn text(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[number]]
    }

    /// All texts, each with its hash and code.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64, u32)> {
        (0..self.codes.len()).map(|number| (self.text(number), self.hashes[number], self.codes[number]))
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.hashes.capacity() * size_of::<u64>()
            + (self.codes.capacity() + self.slots.capacity()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn each_text_keeps_its_first_code(texts in vec("[ab]{0,5}", 0..200), weak in any::<bool>()) {
            let (mut here, mut expected) = (Texts::default(), HashMap::new());
            for (new, text) in (1..).zip(&texts) {
                let hash = if weak { text.len() as u64 } else { hash_of(text) };
                prop_assert_eq!(here.code_or(hash, text, new), *expected.entry(text.clone()).or_insert(new));
            }
            let all: HashMap<String, u32> = here.iter().map(|(text, _, code)| (text.to_owned(), code)).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
