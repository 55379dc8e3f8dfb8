//! The values of one attribute, and how many spans have each at which moment: in an interval, inside or outside of a selection.
//!
//! Text comes as codes of a dictionary. A batch is counted by these codes, and each that occurs is then looked for among the values
//! once, not once per row.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::{DataType, Int32Type},
    },
    common::{HashMap, Result as DfResult},
};

use super::{codes::Codes, label::LabelValue};
use crate::functions::for_each_valid;

/// Spans per moment: interval times two, plus one for the selection. Most values come in order of time, and many come once.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// A moment, and its spans if there are any.
    one: (u32, u64),
    /// Other moments, in order.
    others: Vec<(u32, u64)>,
}

impl Counts {
    /// Bytes that this takes more.
    fn add(&mut self, moment: u32, spans: u64) -> usize {
        if self.one.1 == 0 || self.one.0 == moment {
            self.one = (moment, self.one.1 + spans);
            return 0;
        }
        // Of one interval there are two, and most spans are of the last.
        if let Some(known) = self.others.iter_mut().rev().take(2).find(|known| known.0 == moment) {
            known.1 += spans;
            return 0;
        }
        match self.others.binary_search_by_key(&moment, |(moment, _)| *moment) {
            Ok(index) => {
                self.others[index].1 += spans;
                0
            }
            Err(index) => {
                let before = self.others.capacity();
                self.others.insert(index, (moment, spans));
                (self.others.capacity() - before) * size_of::<(u32, u64)>()
            }
        }
    }

    /// Moments with spans, each once.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        let one = (self.one.1 > 0).then_some(self.one);
        one.into_iter().chain(self.others.iter().copied())
    }

    /// Spans outside and inside of the selection.
    fn sides(&self) -> [u64; 2] {
        let mut sides = [0; 2];
        self.iter().for_each(|(moment, spans)| sides[moment as usize % 2] += spans);
        sides
    }
}

/// The moments of the rows of a batch, of which most batches have a few.
#[derive(Debug)]
pub(super) struct Moments {
    pub(super) by_row: Vec<u32>,
    /// The different ones.
    distinct: Vec<u32>,
    /// By row: which of these it is.
    places: Vec<u32>,
}

impl Moments {
    pub(super) fn of(by_row: Vec<u32>) -> Self {
        let (mut distinct, mut places) = (Vec::new(), Vec::with_capacity(by_row.len()));
        let mut known: HashMap<u32, u32> = HashMap::new();
        let mut last = None;
        for moment in &by_row {
            let place = match last {
                Some((same, place)) if same == *moment => place,
                _ => *known.entry(*moment).or_insert_with(|| {
                    distinct.push(*moment);
                    distinct.len() as u32 - 1
                }),
            };
            last = Some((*moment, place));
            places.push(place);
        }
        Self { by_row, distinct, places }
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

/// Values of one attribute.
#[derive(Debug, Default)]
pub(super) struct Values {
    codes: Codes,
    /// By code.
    counts: Vec<Counts>,
    /// What counts take on the heap.
    counts_bytes: usize,
    /// The spans whose values were given up, all together; those that come later, too.
    given_up: Option<Counts>,
}

impl Values {
    /// Bytes of memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.codes.bytes() + self.counts.capacity() * size_of::<Counts>() + self.counts_bytes
    }

    /// Forgets all values, but for how many spans have any. From now on, values are not told apart.
    pub(super) fn give_up(&mut self) {
        let mut all = self.given_up.take().unwrap_or_default();
        for (moment, spans) in self.counts.iter().flat_map(Counts::iter) {
            all.add(moment, spans);
        }
        *self = Self { given_up: Some(all), ..Self::default() };
    }

    pub(super) fn are_given_up(&self) -> bool {
        self.given_up.is_some()
    }

    /// Counts a value of one span.
    pub(super) fn add_one(&mut self, moment: u32, code: impl FnOnce(&mut Codes) -> u32) {
        if let Some(all) = &mut self.given_up {
            self.counts_bytes += all.add(moment, 1);
            return;
        }
        let code = code(&mut self.codes) as usize;
        self.count(code, moment, 1);
    }

    fn count(&mut self, code: usize, moment: u32, spans: u64) {
        if code >= self.counts.len() {
            self.counts.resize_with(self.codes.len(), Counts::default);
        }
        self.counts_bytes += self.counts[code].add(moment, spans);
    }

    /// Counts the rows of a batch that are not NULL.
    pub(super) fn add_column(&mut self, column: &ArrayRef, empty: Empty, moments: &Moments) -> DfResult<()> {
        if self.given_up.is_some() {
            self.add_without_values(column, empty, moments);
            return Ok(());
        }
        if let Some(coded) = column.as_dictionary_opt::<Int32Type>()
            && let Some(texts) = coded.values().as_string_opt::<i32>()
            // Few values and moments: each of them has a cell, so that rows are counted without looking for theirs.
            && texts.len() * moments.distinct.len() <= 2 * column.len()
        {
            let width = moments.distinct.len();
            let mut cells = vec![0_u32; texts.len() * width];
            let (keys, places) = (coded.keys().values(), &moments.places);
            for_each_valid(coded.keys(), |row| cells[keys[row] as usize * width + places[row] as usize] += 1);
            let of_key = |key: usize| &cells[key * width..][..width];
            let is_value = |key: usize| empty == Empty::Counts || !texts.value(key).is_empty();
            let occurs = |key: usize| of_key(key).iter().any(|spans| *spans > 0) && is_value(key);
            for (key, code) in self.codes.of_keys(texts, occurs).into_iter().enumerate().filter(|(_, code)| *code != 0)
            {
                for (spans, moment) in of_key(key).iter().zip(&moments.distinct).filter(|(spans, _)| **spans > 0) {
                    self.count(code as usize, *moment, u64::from(*spans));
                }
            }
            return Ok(());
        }
        let codes = self.codes.of(column)?;
        let nothing = if empty == Empty::IsMissing { self.codes.of_text("") } else { 0 };
        self.counts.resize_with(self.codes.len(), Counts::default);
        // NULL has the code 0.
        let (counts, mut bytes) = (&mut self.counts, 0);
        for_each_valid(column.as_ref(), |row| {
            let code = codes[row];
            if code != 0 && code != nothing {
                bytes += counts[code as usize].add(moments.by_row[row], 1);
            }
        });
        self.counts_bytes += bytes;
        Ok(())
    }

    fn add_without_values(&mut self, column: &ArrayRef, empty: Empty, moments: &Moments) {
        let Some(all) = &mut self.given_up else { return };
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
        let mut bytes = 0;
        for_each_valid(column.as_ref(), |row| {
            if is_value(row) {
                bytes += all.add(moments.by_row[row], 1);
            }
        });
        self.counts_bytes += bytes;
    }

    /// Adds the counts of another.
    pub(super) fn merge(&mut self, mut other: Values) {
        if self.counts.is_empty() && self.given_up.is_none() {
            *self = other;
            return;
        }
        if self.given_up.is_some() != other.given_up.is_some() {
            self.give_up();
            other.give_up();
        }
        if let (Some(all), Some(others)) = (&mut self.given_up, &other.given_up) {
            self.counts_bytes += others.iter().map(|(moment, spans)| all.add(moment, spans)).sum::<usize>();
            return;
        }
        // What has more values takes over the others.
        if other.codes.len() > self.codes.len() {
            std::mem::swap(self, &mut other);
        }
        let here = self.codes.take_over(&other.codes);
        self.counts.resize_with(self.codes.len(), Counts::default);
        for (code, counts) in here.into_iter().zip(&other.counts) {
            for (moment, spans) in counts.iter() {
                self.counts_bytes += self.counts[code as usize].add(moment, spans);
            }
        }
    }

    /// Spans that have any value, by moment, of which there are so many.
    pub(super) fn all(&self, moments: usize) -> Vec<u64> {
        let mut all = vec![0; moments];
        for (moment, spans) in self.counts.iter().chain(&self.given_up).flat_map(Counts::iter) {
            all[moment as usize] += spans;
        }
        all
    }

    /// The values with most spans outside and inside of the selection, most first; of equals those that come first as text.
    pub(super) fn most_frequent(&self, top: usize) -> [Vec<(LabelValue, &Counts)>; 2] {
        let sides: Vec<[u64; 2]> = self.counts.iter().map(Counts::sides).collect();
        [0, 1].map(|side| {
            // Most values are out by their number, and need not be compared as text.
            let mut spans: Vec<u64> = sides.iter().map(|sides| sides[side]).filter(|spans| *spans > 0).collect();
            let least = match spans.len() > top && top > 0 {
                true => *spans.select_nth_unstable_by(top - 1, |a, b| b.cmp(a)).1,
                false => 1,
            };
            drop(spans);
            let of_side = |code: u32| sides.get(code as usize).map_or(0, |sides| sides[side]);
            let ranked = self.codes.values(|code| of_side(code) >= least);
            let mut ranked: Vec<(u64, LabelValue, &Counts)> =
                ranked.map(|(value, code)| (of_side(code), value, &self.counts[code as usize])).collect();
            let order = |a: &(u64, LabelValue, &Counts), b: &(u64, LabelValue, &Counts)| {
                b.0.cmp(&a.0)
                    .then_with(|| match (&a.1, &b.1) {
                        (LabelValue::Text(a), LabelValue::Text(b)) => a.cmp(b),
                        (a, b) => a.to_string().cmp(&b.to_string()),
                    })
                    .then_with(|| a.1.cmp(&b.1))
            };
            if ranked.len() > top && top > 0 {
                ranked.select_nth_unstable_by(top - 1, order);
                ranked.truncate(top);
            }
            ranked.sort_by(order);
            ranked.truncate(top);
            ranked.into_iter().map(|(_, value, counts)| (value, counts)).collect()
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
        /// However spans come, and wherever they were counted, and when values were given up.
        #[test]
        fn values_are_counted_by_moment(
            parts in vec((vec((prop::option::of("[ab]{0,2}"), 0..6_u32), 0..40), any::<bool>(), 0..3_usize), 1..5),
            empty_counts in any::<bool>(),
            given_up in prop::option::of(0..5_usize),
        ) {
            let empty = if empty_counts { Empty::Counts } else { Empty::IsMissing };
            let mut parties: Vec<Values> = (0..3).map(|_| Values::default()).collect();
            let (mut expected, mut all) = (BTreeMap::<(String, u32), u64>::new(), vec![0; 6]);
            let mut are_given_up = false;
            for (at, (rows, is_coded, party)) in parts.iter().enumerate() {
                if given_up == Some(at) {
                    parties[*party].give_up();
                    are_given_up = true;
                }
                add(&mut parties[*party], rows, empty, *is_coded);
                for (text, moment) in rows {
                    let Some(text) = text.as_ref().filter(|text| empty_counts || !text.is_empty()) else { continue };
                    *expected.entry((text.clone(), *moment)).or_default() += 1;
                    all[*moment as usize] += 1;
                }
            }
            let mut whole = Values::default();
            parties.into_iter().for_each(|party| whole.merge(party));
            prop_assert_eq!(whole.all(6), all);
            prop_assert_eq!(whole.are_given_up(), are_given_up);
            let ranked = whole.most_frequent(usize::MAX);
            if are_given_up {
                prop_assert!(ranked.iter().all(Vec::is_empty));
                return Ok(());
            }
            let mut found = BTreeMap::new();
            for (value, counts) in ranked.into_iter().enumerate().flat_map(|(side, ranked)| {
                ranked.into_iter().filter(move |(_, counts)| counts.iter().any(|(moment, _)| moment as usize % 2 == side))
            }) {
                found.extend(counts.iter().map(|(moment, spans)| ((value.to_string(), moment), spans)));
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
        let mut values = Values::default();
        let rows = (0..1_000).map(|row| (Some(format!("a value of its own {row}")), row % 4)).collect();
        add(&mut values, &rows, Empty::Counts, false);
        assert!(values.bytes() > 50_000);
        values.give_up();
        add(&mut values, &rows, Empty::Counts, true);
        assert!(values.bytes() < 200, "{}", values.bytes());
        assert_eq!(values.all(4), [500; 4]);
    }
}
