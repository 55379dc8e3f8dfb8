//! Numbers for the different texts that a query meets.

use std::{collections::HashMap, fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type},
};
use datafusion::common::{Result, exec_err, hash_utils::RandomState};
use parking_lot::RwLock;

/// Stands for a text without a number.
pub(super) const SPELLED: u16 = u16::MAX;

/// Bytes of text that get numbers, per position of a key.
const BYTES_MAX: usize = 4 << 20;

/// Dictionaries of which it is known what their codes are here: those that the threads of a query are at.
const DICTIONARIES_MAX: usize = 32;

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
    /// The numbers of the values of a dictionary, newest last. Holding the values keeps their address theirs.
    dictionaries: Vec<(StringArray, Arc<[u16]>)>,
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
            dictionaries: Vec::new(),
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

    /// The numbers of the texts of an array: 0 where there is none, [`SPELLED`] where the text has no number.
    pub(super) fn numbers(&self, position: usize, texts: &ArrayRef) -> Result<Vec<u16>> {
        let position = self.position(position)?;
        let Some(texts) = texts.as_dictionary_opt::<Int32Type>() else {
            return Ok(of_texts(position, cast(texts, &DataType::Utf8)?.as_string()));
        };
        let of_values = of_dictionary(position, texts.values())?;
        let of_code = |code: i32| usize::try_from(code).ok().and_then(|code| of_values.get(code));
        let keys = texts.keys();
        if keys.null_count() == 0 {
            return Ok(keys.values().iter().map(|code| of_code(*code).copied().unwrap_or_default()).collect());
        }
        Ok(keys.iter().map(|code| code.and_then(of_code).copied().unwrap_or_default()).collect())
    }
}

/// Texts of a batch whose numbers are at hand. Most rows have one of a few.
const AT_HAND: usize = 256;

fn of_texts(position: &RwLock<Position>, texts: &StringArray) -> Vec<u16> {
    let mut at_hand: Vec<Option<(&str, u16)>> = vec![None; AT_HAND];
    let mut known = position.read();
    let mut numbers = Vec::with_capacity(texts.len());
    for text in texts {
        let Some(text) = text else {
            numbers.push(0);
            continue;
        };
        let place = &mut at_hand[place_of(text.as_bytes())];
        if let Some((same, number)) = place
            && *same == text
        {
            numbers.push(*number);
            continue;
        }
        let number = match known.numbers.get(text) {
            Some(number) => *number,
            None if known.is_full => SPELLED,
            None => {
                drop(known);
                let number = position.write().number(text);
                known = position.read();
                number
            }
        };
        *place = Some((text, number));
        numbers.push(number);
    }
    numbers
}

/// Where the number of a text is at hand: told from its length, its first and its last bytes.
fn place_of(text: &[u8]) -> usize {
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let short = || text.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let ends = match text.len() {
        0..8 => short(),
        _ => word(text.first_chunk()) ^ word(text.last_chunk()).rotate_left(23),
    };
    let mixed = (ends ^ text.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 56) as usize % AT_HAND
}

fn of_dictionary(position: &RwLock<Position>, values: &ArrayRef) -> Result<Arc<[u16]>> {
    let texts = cast(values, &DataType::Utf8)?;
    let texts: &StringArray = texts.as_string();
    if let Some(numbers) = position.read().of_known_dictionary(texts) {
        return Ok(numbers);
    }
    Ok(position.write().of_dictionary(texts))
}

impl Position {
    fn number(&mut self, text: &str) -> u16 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        self.is_full |= self.texts.len() >= self.texts_max || self.bytes + text.len() > self.bytes_max;
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

    fn of_known_dictionary(&self, texts: &StringArray) -> Option<Arc<[u16]>> {
        // Batches of a row group share the bytes of its dictionary, and not the array around them.
        let place =
            |texts: &StringArray| (texts.values().as_ptr(), texts.offsets().inner().inner().as_ptr(), texts.len());
        let (_, numbers) = self.dictionaries.iter().find(|(known, _)| place(known) == place(texts))?;
        Some(Arc::clone(numbers))
    }

    fn of_dictionary(&mut self, texts: &StringArray) -> Arc<[u16]> {
        let numbers: Arc<[u16]> = texts.iter().map(|text| text.map_or(0, |text| self.number(text))).collect();
        if self.dictionaries.len() >= DICTIONARIES_MAX {
            self.dictionaries.remove(0);
        }
        self.dictionaries.push((texts.clone(), Arc::clone(&numbers)));
        numbers
    }
}

impl fmt::Debug for TextCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextCodes").field("positions", &self.positions.len()).finish_non_exhaustive()
    }
}
