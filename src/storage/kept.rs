//! What is known of files, in memory under a budget: the least recently used goes first.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use object_store::path::Path;

/// What takes memory for as long as it is kept.
pub(super) trait InMemory {
    /// How much, in bytes.
    fn memory_bytes(&self) -> usize;
}

/// One thing per file.
#[derive(Debug)]
pub(super) struct Kept<T> {
    by_file: HashMap<Path, (u64, Arc<T>)>,
    /// Files by when they were used last.
    by_use: BTreeMap<u64, Path>,
    uses: u64,
    bytes: usize,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { by_file: HashMap::new(), by_use: BTreeMap::new(), uses: 0, bytes: 0 }
    }
}

impl<T: InMemory> Kept<T> {
    /// What is kept of a file, which is used now.
    pub(super) fn used(&mut self, file: &Path) -> Option<Arc<T>> {
        let (last_use, known) = self.by_file.get_mut(file)?;
        self.by_use.remove(last_use);
        self.uses += 1;
        *last_use = self.uses;
        self.by_use.insert(self.uses, file.clone());
        Some(Arc::clone(known))
    }

    /// Keeps something of a file, with at most `bytes_max` bytes of all files.
    pub(super) fn insert(&mut self, file: &Path, known: &Arc<T>, bytes_max: usize) {
        // Another query can have read it meanwhile.
        if known.memory_bytes() > bytes_max || self.used(file).is_some() {
            return;
        }
        self.uses += 1;
        self.bytes += known.memory_bytes();
        self.by_file.insert(file.clone(), (self.uses, Arc::clone(known)));
        self.by_use.insert(self.uses, file.clone());
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            if let Some((_, known)) = self.by_file.remove(&oldest) {
                self.bytes -= known.memory_bytes();
            }
        }
    }

    /// Memory of all that is kept, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sized(usize);

    impl InMemory for Sized {
        fn memory_bytes(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn what_was_used_last_stays_within_the_budget() {
        let mut kept = Kept::default();
        let path = |file: usize| Path::from(format!("{file}"));
        for file in 0..10 {
            kept.insert(&path(file), &Arc::new(Sized(10)), 35);
            assert!(kept.used(&path(0)).is_some(), "it is used all the time");
            assert!(kept.bytes() <= 35 && kept.by_file.len() == kept.by_use.len());
        }
        let left: Vec<usize> = (0..10).filter(|file| kept.by_file.contains_key(&path(*file))).collect();
        assert_eq!(left, [0, 8, 9]);
        kept.insert(&path(10), &Arc::new(Sized(36)), 35);
        assert_eq!(
            (kept.bytes(), kept.used(&path(10)).is_some()),
            (30, false),
            "nothing makes room for what is too large"
        );
    }
}
