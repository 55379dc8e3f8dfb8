//! A reader of the protobuf wire format that borrows and never trusts.
//!
//! Every varint, length and field number is checked against what is left. Unknown fields are skipped, groups and the two
//! undefined wire types are refused, and a known field with another wire type is an error, not an unknown field.

/// Why bytes are not the message they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireProblem {
    /// The message ends inside of a field.
    #[error("the message ends in the middle of a field")]
    Truncated,
    /// More than ten bytes, or more than 64 bits.
    #[error("a varint has more than 64 bits")]
    VarintTooLong,
    /// A field that claims more bytes than its message has.
    #[error("a field of {length} bytes in a message that has {left} bytes left")]
    LengthPastEnd {
        /// What the field claims.
        length: u64,
        /// What is there.
        left: usize,
    },
    /// Zero, or above 2^29 - 1.
    #[error("field number {0} does not exist")]
    FieldNumber(u64),
    /// Wire type 3 or 4.
    #[error("field {0} is a group, which OTLP does not use")]
    Group(u32),
    /// Wire type 6 or 7.
    #[error("wire type {0} does not exist")]
    WireType(u32),
    /// A known field with a type that is not its own.
    #[error("field {field} of {message} has wire type {wire_type}")]
    UnexpectedWireType {
        /// The message's name.
        message: &'static str,
        /// The field's number.
        field: u32,
        /// What came.
        wire_type: u32,
    },
    /// Text that is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
}

/// A problem and where it is: the address of the byte, which is an offset once the start of the request is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct WireError {
    pub(super) problem: WireProblem,
    address: usize,
}

impl WireError {
    fn at(place: &[u8], problem: WireProblem) -> Self {
        Self { problem, address: place.as_ptr().addr() }
    }

    /// The distance of the problem from the start of `request`.
    pub(super) fn offset_in(&self, request: &[u8]) -> usize {
        self.address.saturating_sub(request.as_ptr().addr()).min(request.len())
    }
}

/// The tag of a length-delimited field.
pub(super) const fn delimited(field: u32) -> u32 {
    field << 3 | 2
}

/// The tag of a varint field.
pub(super) const fn varint(field: u32) -> u32 {
    field << 3
}

/// The tag of an eight-byte field.
pub(super) const fn fixed64(field: u32) -> u32 {
    field << 3 | 1
}

/// The tag of a four-byte field.
pub(super) const fn fixed32(field: u32) -> u32 {
    field << 3 | 5
}

/// Reads the fields of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next tag (field number and wire type); `None` at the end of the message.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<Option<u32>, WireError> {
        let start = self.rest;
        if start.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        match u32::try_from(tag) {
            Ok(tag) if tag >> 3 != 0 => Ok(Some(tag)),
            _ => Err(WireError::at(start, WireProblem::FieldNumber(tag >> 3))),
        }
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, WireError> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, byte) in self.rest.iter().enumerate() {
            // The tenth byte has room for one more bit.
            if index == 9 && *byte > 1 {
                return Err(WireError::at(self.rest, WireProblem::VarintTooLong));
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(WireError::at(self.rest, WireProblem::Truncated))
    }

    /// The content of a length-delimited field.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let start = self.rest;
        let length = self.varint()?;
        let left = self.rest.len();
        match usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length)) {
            Some((content, rest)) => {
                self.rest = rest;
                Ok(content)
            }
            None => Err(WireError::at(start, WireProblem::LengthPastEnd { length, left })),
        }
    }

    /// A text field; `what` names it in the error.
    #[inline]
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, WireError> {
        let bytes = self.bytes()?;
        std::str::from_utf8(bytes).map_err(|error| {
            WireError::at(bytes.get(error.valid_up_to()..).unwrap_or(bytes), WireProblem::NotUtf8(what))
        })
    }

    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, WireError> {
        self.chunk().map(|chunk| u64::from_le_bytes(*chunk))
    }

    #[inline]
    pub(super) fn fixed32(&mut self) -> Result<u32, WireError> {
        self.chunk().map(|chunk| u32::from_le_bytes(*chunk))
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let Some((chunk, rest)) = self.rest.split_first_chunk() else {
            return Err(WireError::at(self.rest, WireProblem::Truncated));
        };
        self.rest = rest;
        Ok(chunk)
    }

    /// Skips a field that `message` does not define; the numbers up to `known_max` are those that it does.
    pub(super) fn skip(&mut self, tag: u32, message: &'static str, known_max: u32) -> Result<(), WireError> {
        let (field, wire_type) = (tag >> 3, tag & 7);
        if field <= known_max {
            let problem = WireProblem::UnexpectedWireType { message, field, wire_type };
            return Err(WireError::at(self.rest, problem));
        }
        match wire_type {
            0 => self.varint().map(|_| ()),
            1 => self.fixed64().map(|_| ()),
            2 => self.bytes().map(|_| ()),
            5 => self.fixed32().map(|_| ()),
            3 | 4 => Err(WireError::at(self.rest, WireProblem::Group(field))),
            _ => Err(WireError::at(self.rest, WireProblem::WireType(wire_type))),
        }
    }
}

/// A submessage as sent: usually in one piece. Protobuf allows a singular field to come again, and then the pieces read
/// as if they were one message.
#[derive(Clone, Debug, Default)]
pub(super) enum Pieces<'a> {
    #[default]
    None,
    One(&'a [u8]),
    Many(Vec<&'a [u8]>),
}

impl<'a> Pieces<'a> {
    pub(super) fn add(&mut self, piece: &'a [u8]) {
        match self {
            Pieces::None => *self = Pieces::One(piece),
            Pieces::One(first) => *self = Pieces::Many(vec![first, piece]),
            Pieces::Many(pieces) => pieces.push(piece),
        }
    }

    pub(super) fn slices(&self) -> &[&'a [u8]] {
        match self {
            Pieces::None => &[],
            Pieces::One(piece) => std::slice::from_ref(piece),
            Pieces::Many(pieces) => pieces,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> WireProblem {
        let mut reader = Reader::new(bytes);
        loop {
            match reader.tag().and_then(|tag| tag.map(|tag| reader.skip(tag, "Test", 0)).transpose()) {
                Ok(Some(())) => {}
                Ok(None) => panic!("{bytes:?} is a message"),
                Err(error) => return error.problem,
            }
        }
    }

    #[test]
    fn every_broken_field_has_its_error() {
        assert_eq!(problem(&[0x00]), WireProblem::FieldNumber(0));
        assert_eq!(problem(&[0xff, 0xff, 0xff, 0xff, 0x7f]), WireProblem::FieldNumber(0xffff_ffff));
        assert_eq!(problem(&[0x80]), WireProblem::Truncated);
        assert_eq!(problem(&[0x08]), WireProblem::Truncated);
        assert_eq!(problem(&[0x09, 1, 2, 3]), WireProblem::Truncated);
        assert_eq!(problem(&[0x0d, 1, 2, 3]), WireProblem::Truncated);
        assert_eq!(problem(&[0x0a, 5, 1]), WireProblem::LengthPastEnd { length: 5, left: 1 });
        assert_eq!(problem(&[0x0b, 0x0c]), WireProblem::Group(1));
        assert_eq!(problem(&[0x0f]), WireProblem::WireType(7));
        assert_eq!(problem(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), WireProblem::VarintTooLong);
    }

    #[test]
    fn the_longest_varint_is_read() {
        let mut reader = Reader::new(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert_eq!(reader.varint().unwrap(), u64::MAX);
        assert_eq!(reader.tag().unwrap(), None);
    }
}
