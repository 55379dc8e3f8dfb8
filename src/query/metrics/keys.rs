//! Numbers for the keys of groups: columns of values in, one small number per row out.
//!
//! A key has a column per label, or one per type that its values can have, and most of these are NULL. So a value gets a
//! code in its column, NULL none, and a key is the walk along the codes it has:
//!
//! ```text
//!  row: ("cart", NULL, NULL, 200)     column 0: "cart" -> 1          (0: 0, 1) -> 1
//!                                     column 3: 200    -> 1          (3: 1, 1) -> 2     the row's number is 2
//! ```
//!
//! A column without values costs nothing, and rows with one value each take one look-up.

use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray},
        datatypes::Int32Type,
    },
    common::{HashMap, Result as DfResult},
};

use super::codes::Codes;

/// The number of the key that is NULL in every column.
const NOTHING: u32 = 0;

/// Numbers of the keys seen so far.
#[derive(Debug, Default)]
pub(super) struct Keys {
    columns: Vec<Column>,
    /// The largest number given.
    last: u32,
    walk_bytes: usize,
    /// Numbers of another batch that are no longer needed.
    spare: Vec<u32>,
}

/// The values of a column, and where walks go from them.
#[derive(Debug, Default)]
struct Column {
    codes: Codes,
    /// By code: the key that has this value alone so far.
    alone: Vec<u32>,
    /// By the key so far, and code.
    further: HashMap<(u32, u32), u32>,
}

impl Keys {
    /// The number of each row's key. Numbers are given from 0 on; not every one stands for a whole key.
    pub(super) fn numbers(&mut self, columns: &[ArrayRef], rows: usize) -> DfResult<Vec<u32>> {
        self.columns.resize_with(columns.len().max(self.columns.len()), Column::default);
        let mut numbers = std::mem::take(&mut self.spare);
        numbers.clear();
        numbers.resize(rows, NOTHING);
        let mut is_first = true;
        for (column, values) in self.columns.iter_mut().zip(columns) {
            if values.null_count() == values.len() {
                continue;
            }
            let before = self.last;
            if let (true, Some(coded)) = (std::mem::take(&mut is_first), values.as_dictionary_opt::<Int32Type>()) {
                column.codes.each_coded(coded, &mut numbers, |code| {
                    if code as usize >= column.alone.len() {
                        column.alone.resize(code as usize + 1, NOTHING);
                    }
                    let number = &mut column.alone[code as usize];
                    if *number == NOTHING {
                        self.last += 1;
                        *number = self.last;
                    }
                    *number
                })?;
                self.walk_bytes += (self.last - before) as usize * size_of::<u32>();
                continue;
            }
            let codes = column.codes.of(values)?;
            column.alone.resize(column.codes.len(), NOTHING);
            for (number, code) in numbers.iter_mut().zip(codes).filter(|(_, code)| *code != 0) {
                let next = match *number == NOTHING {
                    true => &mut column.alone[code as usize],
                    false => column.further.entry((*number, code)).or_insert(NOTHING),
                };
                if *next == NOTHING {
                    self.last += 1;
                    *next = self.last;
                }
                *number = *next;
            }
            self.walk_bytes += (self.last - before) as usize * 2 * size_of::<((u32, u32), u32)>();
        }
        Ok(numbers)
    }

    /// Takes back what [`Self::numbers`] gave, to be written over.
    pub(super) fn take_back(&mut self, numbers: Vec<u32>) {
        self.spare = numbers;
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> usize {
        self.last as usize + 1
    }

    /// Bytes that the numbers take, about.
    pub(super) fn bytes(&self) -> usize {
        self.walk_bytes
            + self.spare.capacity() * size_of::<u32>()
            + self.columns.iter().map(|column| column.codes.bytes()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn rows_have_one_number_if_and_only_if_all_their_values_are_equal() {
        let mut keys = Keys::default();
        let mut numbers = |texts: Vec<Option<&str>>, ints: Vec<Option<i64>>, floats: Vec<Option<f64>>| {
            let rows = texts.len();
            let columns: [ArrayRef; 3] = [
                Arc::new(StringArray::from(texts)),
                Arc::new(Int64Array::from(ints)),
                Arc::new(Float64Array::from(floats)),
            ];
            keys.numbers(&columns, rows).unwrap()
        };
        let some = numbers(vec![Some("a"), None, Some("a"), None], vec![None, Some(1), Some(1), None], vec![None; 4]);
        let again = numbers(
            vec![None, Some("a"), None, Some("a"), Some("")],
            vec![None, Some(1), Some(1), None, None],
            vec![None; 5],
        );
        assert_eq!(again[..4], [some[3], some[2], some[1], some[0]]);
        let all: std::collections::HashSet<u32> = some.into_iter().chain(again).collect();
        assert_eq!(all.len(), 5);
        let floats = numbers(vec![None; 3], vec![None; 3], vec![Some(1.0), Some(-0.0), Some(0.0)]);
        assert!(floats.iter().all(|number| !all.contains(number)));
        assert_ne!(floats[1], floats[2]);
    }
}
