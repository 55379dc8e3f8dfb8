//! Texts by number, for what counts very many of them: one buffer holds all, and their hashes are kept, so that growing reads no
//! text again.

use std::{hash::BuildHasher, sync::LazyLock};

use datafusion::common::HashMap;
use hashbrown::HashTable;

/// What the hasher of this map makes of texts: nobody outside knows it.
static HASHING: LazyLock<HashMap<(), ()>> = LazyLock::new(HashMap::default);

/// The hash of a text.
fn hash_of(text: &str) -> u64 {
    HASHING.hasher().hash_one(text.as_bytes())
}

/// Texts, each with its hash and a code.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: String,
    ends: Vec<usize>,
    hashes: Vec<u64>,
    codes: Vec<u32>,
    /// Numbers of texts.
    numbers: HashTable<u32>,
}

impl Texts {
    /// The code of a text; `new`, if it was not there, and is then.
    pub(super) fn code_or(&mut self, text: &str, new: u32) -> u32 {
        self.code_or_by(hash_of(text), text, new)
    }

    fn code_or_by(&mut self, hash: u64, text: &str, new: u32) -> u32 {
        let is_it = |number: &u32| self.hashes[*number as usize] == hash && self.text(*number as usize) == text;
        if let Some(known) = self.numbers.find(hash, is_it) {
            return self.codes[*known as usize];
        }
        let number = self.codes.len() as u32;
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
        self.hashes.push(hash);
        self.codes.push(new);
        self.numbers.insert_unique(hash, number, |number| self.hashes[*number as usize]);
        new
    }

    fn text(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[number]]
    }

    /// All texts, each with its code.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        (0..self.codes.len()).map(|number| (self.text(number), self.codes[number]))
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<usize>()
            + self.hashes.capacity() * size_of::<u64>()
            + self.codes.capacity() * size_of::<u32>()
            + self.numbers.allocation_size()
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
                prop_assert_eq!(here.code_or_by(hash, text, new), *expected.entry(text.clone()).or_insert(new));
            }
            let all: HashMap<String, u32> = here.iter().map(|(text, code)| (text.to_owned(), code)).collect();
            prop_assert_eq!(all, expected);
        }
    }
}
