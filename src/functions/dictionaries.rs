//! What is known of the texts of dictionaries, so that it is found out once per dictionary and not once per batch.

use arrow::array::{Array, StringArray};

/// Dictionaries of which something is known: those that the threads of a query are at.
const DICTIONARIES_MAX: usize = 32;

/// Whether two arrays are the same memory. Batches of a row group share the bytes of its dictionary, and not the array around
/// them.
pub fn is_same_dictionary(one: &StringArray, other: &StringArray) -> bool {
    let place = |texts: &StringArray| (texts.values().as_ptr(), texts.offsets().inner().inner().as_ptr(), texts.len());
    place(one) == place(other)
}

/// Calls `each` with the rows that are not NULL.
pub fn for_each_valid(values: &dyn Array, each: impl FnMut(usize)) {
    match values.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => (0..values.len()).for_each(each),
        Some(nulls) => nulls.valid_indices().for_each(each),
    }
}

/// What is known of the dictionaries that came last, oldest first. Holding their texts keeps the address theirs.
#[derive(Debug)]
pub(super) struct Dictionaries<T> {
    known: Vec<(StringArray, T)>,
}

impl<T> Default for Dictionaries<T> {
    fn default() -> Self {
        Self { known: Vec::new() }
    }
}

impl<T> Dictionaries<T> {
    /// What is known of this one.
    pub(super) fn of<'a>(&'a self, texts: &'a StringArray) -> impl Iterator<Item = &'a T> {
        self.known.iter().filter(|(known, _)| is_same_dictionary(known, texts)).map(|(_, what)| what)
    }

    /// Keeps what is known of a dictionary, and forgets the oldest if there are too many.
    pub(super) fn keep(&mut self, texts: &StringArray, what: T) {
        if self.known.len() >= DICTIONARIES_MAX {
            self.known.remove(0);
        }
        self.known.push((texts.clone(), what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_known_by_its_memory() {
        let texts = StringArray::from(vec!["a", "b", "c"]);
        let equal = StringArray::from(vec!["a", "b", "c"]);
        let mut known = Dictionaries::default();
        known.keep(&texts, 1);
        known.keep(&texts, 2);
        assert_eq!(known.of(&texts.clone()).collect::<Vec<_>>(), [&1, &2]);
        assert_eq!(known.of(&equal).count(), 0);
        assert_eq!(known.of(&texts.slice(0, 2)).count(), 0);
        assert_eq!(known.of(&texts.slice(1, 2)).count(), 0);
    }

    #[test]
    fn the_oldest_dictionaries_are_forgotten() {
        let all: Vec<_> = (0..=DICTIONARIES_MAX).map(|at| StringArray::from(vec![at.to_string()])).collect();
        let mut known = Dictionaries::default();
        all.iter().enumerate().for_each(|(at, texts)| known.keep(texts, at));
        assert_eq!(known.of(&all[0]).count(), 0);
        assert_eq!(known.of(&all[1]).collect::<Vec<_>>(), [&1]);
        assert_eq!(known.of(&all[DICTIONARIES_MAX]).count(), 1);
    }
}
