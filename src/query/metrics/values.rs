//! The values of one attribute, and how many spans have each at which moment: in an interval, inside or outside of a selection.
//!
//! Text comes as codes of a dictionary. A batch is counted by these codes, and each that occurs is then looked for among the values
//! once, not once per row.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::{DataType, Int32Type},
    },
    common::Result as DfResult,
};

use super::{codes::Codes, label::LabelValue, moments::Moments};
use crate::functions::for_each_valid;

/// Cells that a table of spans has in any case.
const CELLS_MIN: usize = 1 << 13;
/// One in so many cells of a larger table has spans.
const CELLS_PER_USED: usize = 4;
/// Notes that are not summed up in any case.
const NOTES_MIN: usize = 1 << 16;

/// Spans by the code of a value and the moment: interval times two, plus one for the selection.
#[derive(Clone, Debug)]
enum Counts {
    /// A cell for each pair, code by code, and how many of them have spans.
    Cells(Vec<u64>, usize),
    /// Where few pairs have spans: notes as they came, several perhaps of a pair, but for the first of them, which are in order.
    Notes(Vec<Note>, usize),
}

#[derive(Clone, Copy, Debug)]
struct Note {
    code: u32,
    moment: u32,
    spans: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self::Cells(Vec::new(), 0)
    }
}

impl Counts {
    /// Counts spans of a code, of which there are `codes`, as there are `moments`.
    fn add(&mut self, note: Note, (codes, moments): (usize, usize)) {
        if let Self::Cells(cells, used) = self {
            let place = note.code as usize * moments + note.moment as usize;
            if place >= cells.len() {
                let needed = codes * moments;
                if needed > CELLS_MIN.max(CELLS_PER_USED * *used) {
                    let mut notes: Vec<Note> = Vec::with_capacity(*used + 1);
                    notes.extend(self.iter(moments));
                    let summed = notes.len();
                    notes.push(note);
                    *self = Self::Notes(notes, summed);
                    return;
                }
                cells.resize(needed, 0);
            }
            *used += usize::from(cells[place] == 0);
            cells[place] += note.spans;
            return;
        }
        let Self::Notes(notes, summed) = self else { return };
        match notes.last_mut() {
            Some(last) if (last.code, last.moment) == (note.code, note.moment) => last.spans += note.spans,
            _ => notes.push(note),
        }
        if notes.len() > NOTES_MIN + 2 * *summed {
            self.sum_up(codes, moments);
        }
    }

    /// Makes one note of those of a pair, or cells where most have some. Gives whether it takes much less now.
    fn sum_up(&mut self, codes: usize, moments: usize) -> bool {
        let Self::Notes(notes, summed) = self else { return false };
        let before = notes.len();
        notes.sort_unstable_by_key(|note| u64::from(note.code) << 32 | u64::from(note.moment));
        notes.dedup_by(|next, kept| {
            let is_same = (next.code, next.moment) == (kept.code, kept.moment);
            if is_same {
                kept.spans += next.spans;
            }
            is_same
        });
        *summed = notes.len();
        let is_less = notes.len() < before / 2;
        if codes * moments <= CELLS_PER_USED / 2 * notes.len() {
            let (mut cells, used) = (vec![0; codes * moments], notes.len());
            for note in notes {
                cells[note.code as usize * moments + note.moment as usize] += note.spans;
            }
            *self = Self::Cells(cells, used);
        } else if is_less {
            notes.shrink_to_fit();
        }
        is_less
    }

    /// All that was counted; a pair can come several times.
    fn iter(&self, moments: usize) -> impl Iterator<Item = Note> {
        let (cells, notes): (&[u64], &[Note]) = match self {
            Self::Cells(cells, _) => (cells, &[]),
            Self::Notes(notes, _) => (&[], notes),
        };
        let note = move |(place, spans): (usize, &u64)| {
            let (code, moment) = ((place / moments) as u32, (place % moments) as u32);
            Note { code, moment, spans: *spans }
        };
        let cells = cells.iter().enumerate().filter(|(_, spans)| **spans > 0).map(note);
        cells.chain(notes.iter().copied())
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Cells(cells, _) => cells.capacity() * size_of::<u64>(),
            Self::Notes(notes, _) => notes.capacity() * size_of::<Note>(),
        }
    }
}

/// What empty text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Empty {
    /// A value.
    Counts,
    /// None.
    IsMissing,
}

impl Empty {
    /// What it is in a column: those of text that are no attributes are empty where a span says nothing.
    pub(super) fn of(is_attribute: bool) -> Self {
        if is_attribute { Self::Counts } else { Self::IsMissing }
    }
}

/// A value, and its spans by moment; several entries of a moment add up.
pub(super) type Ranked = (LabelValue, Vec<(u32, u64)>);

/// Values of one attribute.
#[derive(Debug)]
pub(super) struct Values {
    codes: Codes,
    /// By code: spans outside and inside of the selection.
    sides: Vec<[u64; 2]>,
    counts: Counts,
    /// How many moments there are.
    moments: usize,
    /// Whether values are not told apart any more, so that all have the code of NULL.
    are_given_up: bool,
}

impl Values {
    /// No values yet, over so many moments.
    pub(super) fn new(moments: usize) -> Self {
        let (codes, sides, counts) = (Codes::default(), Vec::new(), Counts::default());
        Self { codes, sides, counts, moments, are_given_up: false }
    }

    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.codes.bytes() + self.sides.capacity() * size_of::<[u64; 2]>() + self.counts.bytes()
    }

    /// Takes less memory; if that is not much less, forgets all values, but for how many spans have any. From then on, values are
    /// not told apart.
    pub(super) fn make_smaller(&mut self) {
        if !self.counts.sum_up(self.codes.len(), self.moments) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let mut all = Self { are_given_up: true, ..Self::new(self.moments) };
        self.counts.iter(self.moments).for_each(|note| all.count(0, note.moment, note.spans));
        *self = all;
    }

    pub(super) fn are_given_up(&self) -> bool {
        self.are_given_up
    }

    /// Counts a value of one span.
    pub(super) fn add_one(&mut self, moment: u32, code: impl FnOnce(&mut Codes) -> DfResult<u32>) -> DfResult<()> {
        let code = if self.are_given_up { 0 } else { code(&mut self.codes)? };
        self.count(code, moment, 1);
        Ok(())
    }

    fn count(&mut self, code: u32, moment: u32, spans: u64) {
        let codes = self.codes.len();
        if code as usize >= self.sides.len() {
            self.sides.resize(codes, [0; 2]);
        }
        self.sides[code as usize][moment as usize % 2] += spans;
        self.counts.add(Note { code, moment, spans }, (codes, self.moments));
    }

    /// Counts the rows of a batch that are not NULL.
    pub(super) fn add_column(&mut self, column: &ArrayRef, empty: Empty, moments: &Moments) -> DfResult<()> {
        if self.are_given_up {
            self.add_without_values(column, empty, moments);
            return Ok(());
        }
        if let Some(coded) = column.as_dictionary_opt::<Int32Type>()
            && let Some(texts) = coded.values().as_string_opt::<i32>()
            // Few values and moments: each of them has a cell, so that rows are counted without looking for theirs.
            && texts.len() * moments.distinct().len() <= 2 * column.len()
        {
            let width = moments.distinct().len();
            let mut cells = vec![0_u32; texts.len() * width];
            let (keys, places) = (coded.keys().values(), moments.places());
            for_each_valid(coded.keys(), |row| cells[keys[row] as usize * width + places[row] as usize] += 1);
            let of_key = |key: usize| &cells[key * width..][..width];
            let is_value = |key: usize| empty == Empty::Counts || !texts.value(key).is_empty();
            let occurs = |key: usize| of_key(key).iter().any(|spans| *spans > 0) && is_value(key);
            for (key, code) in self.codes.of_keys(texts, occurs).into_iter().enumerate().filter(|(_, code)| *code != 0)
            {
                for (spans, moment) in of_key(key).iter().zip(moments.distinct()).filter(|(spans, _)| **spans > 0) {
                    self.count(code, *moment, u64::from(*spans));
                }
            }
            return Ok(());
        }
        let codes = self.codes.of(column)?;
        let nothing = if empty == Empty::IsMissing { self.codes.of_text("") } else { 0 };
        // NULL has the code 0.
        for_each_valid(column.as_ref(), |row| {
            let code = codes[row];
            if code != 0 && code != nothing {
                self.count(code, moments.by_row()[row], 1);
            }
        });
        Ok(())
    }

    fn add_without_values(&mut self, column: &ArrayRef, empty: Empty, moments: &Moments) {
        let is_value = |row: usize| match column.data_type() {
            _ if empty == Empty::Counts => true,
            DataType::Utf8 => !column.as_string::<i32>().value(row).is_empty(),
            DataType::Dictionary(..) => {
                let coded = column.as_dictionary::<Int32Type>();
                let texts = coded.values().as_string_opt::<i32>();
                texts.zip(coded.key(row)).is_none_or(|(texts, key)| !texts.value(key).is_empty())
            }
            _ => true,
        };
        for_each_valid(column.as_ref(), |row| {
            if is_value(row) {
                self.count(0, moments.by_row()[row], 1);
            }
        });
    }

    /// Counts a value of several spans: moments, and how many spans each has.
    pub(super) fn add_counted(
        &mut self,
        code: impl FnOnce(&mut Codes) -> u32,
        counted: impl Iterator<Item = (u32, u64)>,
    ) {
        let code = if self.are_given_up { 0 } else { code(&mut self.codes) };
        counted.for_each(|(moment, spans)| self.count(code, moment, spans));
    }

    /// Spans that have any value, by moment.
    pub(super) fn all(&self) -> Vec<u64> {
        let mut all = vec![0; self.moments];
        self.counts.iter(self.moments).for_each(|note| all[note.moment as usize] += note.spans);
        all
    }

    /// The values with most spans outside and inside of the selection, most first; of equals those that come first as text.
    pub(super) fn most_frequent(&self, top: usize) -> [Vec<Ranked>; 2] {
        if self.are_given_up {
            return [Vec::new(), Vec::new()];
        }
        let ranked = self.ranked(top);
        // By code, which of those that stay it is, from 1 on.
        let mut places = vec![0_usize; self.sides.len()];
        let mut counts: Vec<Vec<(u32, u64)>> = vec![Vec::new()];
        for (_, code) in ranked.iter().flatten() {
            if places[*code as usize] == 0 {
                places[*code as usize] = counts.len();
                counts.push(Vec::new());
            }
        }
        let notes = self.counts.iter(self.moments).filter(|note| places[note.code as usize] != 0);
        notes.for_each(|note| counts[places[note.code as usize]].push((note.moment, note.spans)));
        let with_counts = |(value, code): (LabelValue, u32)| (value, counts[places[code as usize]].clone());
        ranked.map(|ranked| ranked.into_iter().map(with_counts).collect())
    }

    /// The values with most spans of each side, and their codes.
    fn ranked(&self, top: usize) -> [Vec<(LabelValue, u32)>; 2] {
        // Most values are out by their number, and need not be compared as text.
        let least = [0, 1].map(|side| {
            let mut spans: Vec<u64> = self.sides.iter().map(|sides| sides[side]).filter(|spans| *spans > 0).collect();
            match spans.len() > top && top > 0 {
                true => *spans.select_nth_unstable_by(top - 1, |a, b| b.cmp(a)).1,
                false => 1,
            }
        });
        let of_code = |code: u32| self.sides.get(code as usize).copied().unwrap_or_default();
        // Values come in no order, so that what is asked of each had better be small.
        let is_ranked = |sides: &[u64; 2]| sides.iter().zip(least).any(|(spans, least)| *spans >= least);
        let ranked: Vec<bool> = self.sides.iter().map(is_ranked).collect();
        let is_ranked = |code: u32| ranked.get(code as usize).is_some_and(|is_ranked| *is_ranked);
        let values: Vec<(LabelValue, u32)> = self.codes.values(is_ranked).collect();
        [0, 1].map(|side| {
            let of_side = values.iter().map(|(value, code)| (of_code(*code)[side], value, *code));
            let mut ranked: Vec<(u64, &LabelValue, u32)> =
                of_side.filter(|(spans, ..)| *spans >= least[side]).collect();
            let order = |a: &(u64, &LabelValue, u32), b: &(u64, &LabelValue, u32)| {
                b.0.cmp(&a.0)
                    .then_with(|| match (a.1, b.1) {
                        (LabelValue::Text(a), LabelValue::Text(b)) => a.cmp(b),
                        (a, b) => a.to_string().cmp(&b.to_string()),
                    })
                    .then_with(|| a.1.cmp(b.1))
            };
            if ranked.len() > top && top > 0 {
                ranked.select_nth_unstable_by(top - 1, order);
                ranked.truncate(top);
            }
            ranked.sort_by(order);
            ranked.truncate(top);
            ranked.into_iter().map(|(_, value, code)| (value.clone(), code)).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use datafusion::arrow::array::{DictionaryArray, StringArray};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Rows = Vec<(Option<String>, u32)>;

    /// The rows as a column of codes, or of texts.
    fn add(values: &mut Values, rows: &Rows, empty: Empty, is_coded: bool) {
        let texts: Vec<Option<&str>> = rows.iter().map(|(text, _)| text.as_deref()).collect();
        let column: ArrayRef = match is_coded {
            true => Arc::new(DictionaryArray::<Int32Type>::from_iter(texts)),
            false => Arc::new(StringArray::from(texts)),
        };
        values.add_column(&column, empty, &Moments::of(rows.iter().map(|(_, moment)| *moment).collect())).unwrap();
    }

    proptest! {
        /// However spans come, and when values were given up.
        #[test]
        fn values_are_counted_by_moment(
            parts in vec((vec((prop::option::of("[ab]{0,2}"), 0..6_u32), 0..40), any::<bool>()), 1..5),
            empty_counts in any::<bool>(),
            given_up in prop::option::of(0..5_usize),
        ) {
            let empty = if empty_counts { Empty::Counts } else { Empty::IsMissing };
            let mut whole = Values::new(6);
            let (mut expected, mut all) = (BTreeMap::<(String, u32), u64>::new(), vec![0; 6]);
            let mut are_given_up = false;
            for (at, (rows, is_coded)) in parts.iter().enumerate() {
                if given_up == Some(at) {
                    whole.give_up();
                    are_given_up = true;
                }
                add(&mut whole, rows, empty, *is_coded);
                for (text, moment) in rows {
                    let Some(text) = text.as_ref().filter(|text| empty_counts || !text.is_empty()) else { continue };
                    *expected.entry((text.clone(), *moment)).or_default() += 1;
                    all[*moment as usize] += 1;
                }
            }
            prop_assert_eq!(whole.all(), all);
            prop_assert_eq!(whole.are_given_up(), are_given_up);
            let ranked = whole.most_frequent(usize::MAX);
            if are_given_up {
                prop_assert!(ranked.iter().all(Vec::is_empty));
                return Ok(());
            }
            let mut found: BTreeMap<(String, u32), u64> = BTreeMap::new();
            for (side, (value, counts)) in
                ranked.into_iter().enumerate().flat_map(|(side, ranked)| ranked.into_iter().map(move |value| (side, value)))
            {
                for (moment, spans) in counts.into_iter().filter(|(moment, _)| *moment as usize % 2 == side) {
                    *found.entry((value.to_string(), moment)).or_default() += spans;
                }
            }
            let expected: BTreeMap<(String, u32), u64> = expected
                .into_iter()
                .map(|((text, moment), spans)| ((LabelValue::Text(text).to_string(), moment), spans))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn values_that_are_given_up_take_no_memory() {
        let mut values = Values::new(4);
        let rows = (0..1_000).map(|row| (Some(format!("a value of its own {row}")), row % 4)).collect();
        add(&mut values, &rows, Empty::Counts, false);
        assert!(values.bytes() > 50_000);
        values.give_up();
        add(&mut values, &rows, Empty::Counts, true);
        assert!(values.bytes() < 200, "{}", values.bytes());
        assert_eq!(values.all(), [500; 4]);
    }

    proptest! {
        /// Whether they are cells, or notes, or were cells or notes before.
        #[test]
        fn spans_add_up_by_code_and_moment(
            notes in vec((1..40_u32, 0..4_u32, 1..5_u64), 0..200), dense in 0..3_usize, sum_up_every in 1..100_usize,
        ) {
            // Many moments make cells too many for few codes.
            let moments = [4, 400, 40_000][dense];
            let (mut counts, mut expected) = (Counts::default(), BTreeMap::<(u32, u32), u64>::new());
            let mut codes = 1;
            for (at, (code, moment, spans)) in notes.into_iter().enumerate() {
                codes = codes.max(code as usize + 1);
                counts.add(Note { code, moment, spans }, (codes, moments));
                *expected.entry((code, moment)).or_default() += spans;
                if at % sum_up_every == 0 {
                    counts.sum_up(codes, moments);
                    prop_assert!(counts.iter(moments).count() == expected.len());
                }
            }
            let mut found = BTreeMap::<(u32, u32), u64>::new();
            counts.iter(moments).for_each(|note| *found.entry((note.code, note.moment)).or_default() += note.spans);
            prop_assert_eq!(found, expected);
        }
    }
}
