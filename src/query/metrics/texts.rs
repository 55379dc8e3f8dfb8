//! Texts with codes, for what counts very many of them: one buffer holds all, and their hashes are kept, so that growing reads no
//! text again, and a look-up reads an entry and the text that it is compared with.

use std::{hash::BuildHasher, sync::LazyLock};

use datafusion::common::HashMap;
use hashbrown::HashTable;

/// What the hasher of this map makes of texts: nobody outside knows it.
static HASHING: LazyLock<HashMap<(), ()>> = LazyLock::new(HashMap::default);

/// The hash of a text.
fn hash_of(text: &str) -> u64 {
    HASHING.hasher().hash_one(text.as_bytes())
}

/// Texts, each with a code.
#[derive(Debug, Default)]
pub(super) struct Texts {
    bytes: String,
    known: HashTable<Known>,
}

/// A text that is known, with all that a look-up needs besides the text itself.
#[derive(Clone, Copy, Debug)]
struct Known {
    hash: u64,
    start: usize,
    length: u32,
    code: u32,
}

impl Known {
    fn text(self, bytes: &str) -> &str {
        &bytes[self.start..self.start + self.length as usize]
    }
}

impl Texts {
    /// The code of a text; `new`, if it was not there, and is then.
    pub(super) fn code_or(&mut self, text: &str, new: u32) -> u32 {
        self.code_or_by(hash_of(text), text, new)
    }

    fn code_or_by(&mut self, hash: u64, text: &str, new: u32) -> u32 {
        let is_it = |known: &Known| known.hash == hash && known.text(&self.bytes) == text;
        if let Some(known) = self.known.find(hash, is_it) {
            return known.code;
        }
        let known = Known { hash, start: self.bytes.len(), length: text.len() as u32, code: new };
        self.bytes.push_str(text);
        self.known.insert_unique(hash, known, |known| known.hash);
        new
    }

    /// All texts, each with its code.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.known.iter().map(|known| (known.text(&self.bytes), known.code))
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.known.allocation_size()
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
