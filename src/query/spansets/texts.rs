//! Text of spans, as it comes: plain, or as a dictionary and codes.

use datafusion::arrow::{
    array::{Array, AsArray, DictionaryArray, StringArray},
    buffer::NullBuffer,
    datatypes::Int32Type,
};

/// A column of text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    values: &'a StringArray,
    nulls: Option<&'a NullBuffer>,
    /// By row: the position among the values; the row itself if there are none.
    codes: Option<&'a [i32]>,
}

impl<'a> Texts<'a> {
    /// The column, if it is one of text.
    pub(super) fn of(column: &'a dyn Array) -> Option<Self> {
        if let Some(values) = column.as_string_opt::<i32>() {
            return Some(Self { values, nulls: values.nulls(), codes: None });
        }
        let coded = column.as_any_dictionary_opt()?.as_any().downcast_ref::<DictionaryArray<Int32Type>>()?;
        let values = coded.values().as_string_opt::<i32>()?;
        Some(Self { values, nulls: coded.keys().nulls(), codes: Some(coded.keys().values()) })
    }

    /// Where the text of a row that has one is among the values. Equal texts can be at several places.
    pub(super) fn place(self, row: usize) -> usize {
        self.codes.map_or(row, |codes| codes[row] as usize)
    }

    /// Whether the row has no text.
    pub(super) fn is_null(self, row: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    /// The text of a row; of one that has none, any or nothing.
    pub(super) fn value(self, row: usize) -> &'a str {
        match self.is_null(row) {
            true => "",
            false => self.values.value(self.place(row)),
        }
    }

    /// How many places there are.
    pub(super) fn places(self) -> usize {
        self.values.len()
    }

    /// What `tell` says of the text of each place.
    pub(super) fn by_place<T>(self, tell: impl Fn(&str) -> T) -> Vec<T> {
        (0..self.values.len()).map(|place| tell(self.values.value(place))).collect()
    }
}
