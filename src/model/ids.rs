//! Trace and span ids: fixed bytes inside, lower-case hex outside.

use std::{fmt, str::FromStr};

/// Why a text is not an id. The messages carry Tempo's phrases, which its clients match on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A character that is not a hex digit; `position` counts from 1.
    #[error("{what} IDs can only contain hex characters: invalid character '{character}' at position {position}")]
    NotHex {
        /// `trace` or `span`.
        what: &'static str,
        /// The offending character.
        character: char,
        /// Its place, from 1.
        position: usize,
    },
    /// More hex digits than the id has.
    #[error("{what} IDs can't be larger than {bits} bits")]
    TooLong {
        /// `trace` or `span`.
        what: &'static str,
        /// The size of such an id.
        bits: usize,
    },
    /// No digits at all.
    #[error("{what} IDs can't be empty")]
    Empty {
        /// `trace` or `span`.
        what: &'static str,
    },
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $bytes;

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The id in `bytes`, if the length is right and not all of them are zero (OTLP: such an id is invalid).
            pub fn from_wire(bytes: &[u8]) -> Option<Self> {
                let bytes = <[u8; $bytes]>::try_from(bytes).ok()?;
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            /// The bytes, most significant first.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Reads hex of any case; a short id is padded with zeros on the left, as 64-bit Jaeger ids are.
            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.is_empty() {
                    return Err(IdError::Empty { what: $what });
                }
                if let Some((index, character)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_hexdigit()) {
                    return Err(IdError::NotHex { what: $what, character, position: index + 1 });
                }
                if text.len() > 2 * $bytes {
                    return Err(IdError::TooLong { what: $what, bits: 8 * $bytes });
                }
                let mut bytes = [0; $bytes];
                let padded = format!("{text:0>width$}", width = 2 * $bytes);
                // Cannot fail: the digits and the length were checked above.
                hex::decode_to_slice(padded, &mut bytes).map_err(|_| IdError::Empty { what: $what })?;
                Ok(Self(bytes))
            }
        }
    };
}

id!(
    /// A 128-bit trace id.
    TraceId, 16, "trace"
);
id!(
    /// A 64-bit span id.
    SpanId, 8, "span"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_upper_case_ids_read_as_the_padded_lower_case_one() {
        let id: TraceId = "1B83652BC97A7B7E".parse().unwrap();
        assert_eq!(id.to_string(), "00000000000000001b83652bc97a7b7e");
        assert_eq!(id.to_string().parse::<TraceId>().unwrap(), id);
    }

    #[test]
    fn bad_ids_are_refused_with_the_place_of_the_fault() {
        let message = |text: &str| text.parse::<TraceId>().unwrap_err().to_string();
        assert_eq!(message("abz"), "trace IDs can only contain hex characters: invalid character 'z' at position 3");
        assert_eq!(message(&"a".repeat(33)), "trace IDs can't be larger than 128 bits");
        assert_eq!(message(""), "trace IDs can't be empty");
        assert_eq!(message("é"), "trace IDs can only contain hex characters: invalid character 'é' at position 1");
    }

    #[test]
    fn wire_ids_of_wrong_length_or_all_zero_are_none() {
        assert_eq!(SpanId::from_wire(&[0; 8]), None);
        assert_eq!(SpanId::from_wire(&[1; 7]), None);
        assert!(SpanId::from_wire(&[1; 8]).is_some());
    }
}
