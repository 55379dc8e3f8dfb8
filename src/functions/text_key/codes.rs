//! Numbers for the different texts that a query meets.

use std::{collections::HashMap, fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type},
};
use datafusion::common::{Result, exec_err, hash_utils::RandomState};
use parking_lot::{RwLock, RwLockReadGuard};

use crate::functions::{
    dictionaries::{Dictionaries, for_each_valid},
    text_at_hand::AtHand,
};

/// Stands for a text without a number.
pub(super) const SPELLED: u16 = u16::MAX;

/// Texts that get numbers where they come without a dictionary. Each row then looks its text up, which pays for a few.
const PLAIN_TEXTS_MAX: usize = 4_096;

/// Bytes of text that get numbers, per position of a key.
const BYTES_MAX: usize = 4 << 20;

/// Numbers of texts, by position in the key. They are shared by all threads of a query.
pub(super) struct TextCodes {
    positions: Vec<RwLock<Position>>,
}

struct Position {
    numbers: HashMap<Arc<str>, u16, RandomState>,
    texts: Vec<Arc<str>>,
    bytes: usize,
    /// Most texts that get a number.
    texts_max: usize,
    bytes_max: usize,
    /// Whether numbers have run out.
    is_full: bool,
    /// The numbers of the values of dictionaries.
    dictionaries: Dictionaries<Arc<[u16]>>,
}

impl TextCodes {
    /// Without numbers, for keys of this many texts.
    pub(super) fn new(positions: usize) -> Self {
        Self::with_limits(positions, usize::from(SPELLED) - 1, BYTES_MAX)
    }

    pub(super) fn with_limits(positions: usize, texts_max: usize, bytes_max: usize) -> Self {
        let position = || Position {
            numbers: HashMap::default(),
            texts: Vec::new(),
            bytes: 0,
            texts_max,
            bytes_max,
            is_full: false,
            dictionaries: Dictionaries::default(),
        };
        Self { positions: (0..positions).map(|_| RwLock::new(position())).collect() }
    }

    fn position(&self, position: usize) -> Result<&RwLock<Position>> {
        match self.positions.get(position) {
            Some(position) => Ok(position),
            None => exec_err!("a key of {} texts has none at {position}", self.positions.len()),
        }
    }

    /// The text that has a number.
    pub(super) fn text(&self, position: usize, number: u16) -> Result<Arc<str>> {
        let position = self.position(position)?.read();
        match usize::from(number).checked_sub(1).and_then(|at| position.texts.get(at)) {
            Some(text) => Ok(Arc::clone(text)),
            None => exec_err!("no text has the number {number}"),
        }
    }

    /// Tells `number` the row and the number of each text of an array, [`SPELLED`] where it has none. NULLs are left out.
    pub(super) fn numbers(&self, position: usize, texts: &ArrayRef, mut number: impl FnMut(usize, u16)) -> Result<()> {
        let position = self.position(position)?;
        let Some(texts) = texts.as_dictionary_opt::<Int32Type>() else {
            of_texts(position, cast(texts, &DataType::Utf8)?.as_string(), PLAIN_TEXTS_MAX, number);
            return Ok(());
        };
        let of_values = of_dictionary(position, texts.values())?;
        let codes = texts.keys().values();
        let of_row = |row: usize| {
            let code = codes.get(row).and_then(|code| usize::try_from(*code).ok());
            code.and_then(|code| of_values.get(code)).copied().unwrap_or_default()
        };
        for_each_valid(texts.keys(), |row| number(row, of_row(row)));
        Ok(())
    }
}

fn of_texts(position: &RwLock<Position>, texts: &StringArray, texts_max: usize, mut number: impl FnMut(usize, u16)) {
    let mut at_hand = AtHand::default();
    let mut known = position.read();
    for_each_valid(texts, |row| {
        let text = texts.value(row);
        let found = at_hand.get(text, || match known.numbers.get(text) {
            Some(number) => *number,
            None if known.is_full => SPELLED,
            None => RwLockReadGuard::unlocked(&mut known, || position.write().number(text, texts_max)),
        });
        number(row, found);
    });
}

fn of_dictionary(position: &RwLock<Position>, values: &ArrayRef) -> Result<Arc<[u16]>> {
    let texts = cast(values, &DataType::Utf8)?;
    let texts: &StringArray = texts.as_string();
    if let Some(numbers) = position.read().dictionaries.of(texts).next() {
        return Ok(Arc::clone(numbers));
    }
    let mut numbers = vec![0; texts.len()];
    of_texts(position, texts, usize::MAX, |value, number| numbers[value] = number);
    let numbers: Arc<[u16]> = numbers.into();
    position.write().dictionaries.keep(texts, Arc::clone(&numbers));
    Ok(numbers)
}

impl Position {
    fn number(&mut self, text: &str, texts_max: usize) -> u16 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let texts_max = self.texts_max.min(texts_max);
        self.is_full |= self.texts.len() >= texts_max || self.bytes + text.len() > self.bytes_max;
        if self.is_full {
            return SPELLED;
        }
        let text: Arc<str> = text.into();
        self.bytes += text.len();
        self.texts.push(Arc::clone(&text));
        // The count is below that of numbers.
        let number = u16::try_from(self.texts.len()).unwrap_or(SPELLED);
        self.numbers.insert(text, number);
        number
    }
}

impl fmt::Debug for TextCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextCodes").field("positions", &self.positions.len()).finish_non_exhaustive()
    }
}
