//! The body of a request: read, bounded, decompressed.
//!
//! The limit holds for the body after decompression. A compressed body that is larger than it is refused while it is
//! read, and one that grows beyond it stops growing there, so a bomb costs the limit and not what it would become.

use std::io::{self, Read};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;

use super::{inflight::Reservation, offload};
use crate::error::{Error, ErrorKind, Result};

/// Bytes by which a decompressed body grows.
const CHUNK_BYTES: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    /// What HTTP calls deflate: zlib's format, or the bare stream that some senders take it for.
    Deflate,
}

/// The names of what is supported, as senders may be told.
pub(super) const SUPPORTED: &str = "identity, gzip, zstd, deflate";

impl Compression {
    /// The compression of this name; `None` for none, an error for one that is not supported.
    pub(super) fn parse(name: &str) -> Result<Option<Self>, ()> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Compression::Gzip)),
            "zstd" => Ok(Some(Compression::Zstd)),
            "deflate" => Ok(Some(Compression::Deflate)),
            _ => Err(()),
        }
    }
}

/// Reads a body of at most `bytes_max` bytes as they are on the wire.
pub(super) async fn read(mut body: Body, bytes_max: usize, reservation: &mut Reservation) -> Result<Bytes> {
    let mut first: Option<Bytes> = None;
    let mut joined = BytesMut::new();
    let mut total = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| {
            Error::new(ErrorKind::InvalidArgument, "the request ended before its body did").with_source(cause)
        })?;
        // Trailers say nothing that is needed.
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > bytes_max {
            return Err(too_large(bytes_max));
        }
        reservation.grow(data.len())?;
        match first.take() {
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(before) => {
                joined.extend_from_slice(&before);
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

/// What `body` becomes, at most `bytes_max` bytes.
pub(super) async fn decompress(
    body: Bytes,
    compression: Option<Compression>,
    bytes_max: usize,
    mut reservation: Reservation,
) -> Result<(Bytes, Reservation)> {
    let Some(compression) = compression else { return Ok((body, reservation)) };
    offload(body.len(), move || {
        let plain = match compression {
            Compression::Gzip => read_bounded(MultiGzDecoder::new(body.as_ref()), bytes_max, &mut reservation),
            Compression::Zstd => match zstd::stream::read::Decoder::new(body.as_ref()) {
                Ok(decoder) => read_bounded(decoder, bytes_max, &mut reservation),
                Err(cause) => Err(malformed(cause)),
            },
            Compression::Deflate if is_zlib(&body) => {
                read_bounded(ZlibDecoder::new(body.as_ref()), bytes_max, &mut reservation)
            }
            Compression::Deflate => read_bounded(DeflateDecoder::new(body.as_ref()), bytes_max, &mut reservation),
        }?;
        Ok((plain, reservation))
    })
    .await?
}

/// Whether the first two bytes are a zlib header: the method is deflate, and the check bits are right.
fn is_zlib(body: &[u8]) -> bool {
    let Some(&[method, flags]) = body.first_chunk::<2>() else { return false };
    method & 0x0f == 8 && (u16::from(method) << 8 | u16::from(flags)) % 31 == 0
}

fn read_bounded(mut decoder: impl Read, bytes_max: usize, reservation: &mut Reservation) -> Result<Bytes> {
    let mut plain: Vec<u8> = Vec::new();
    loop {
        let length = plain.len();
        // One byte more than allowed tells "at the limit" from "above it".
        let room = CHUNK_BYTES.min(bytes_max + 1 - length);
        reservation.grow(room)?;
        plain.resize(length + room, 0);
        let mut filled = length;
        while filled < plain.len() {
            match decoder.read(&mut plain[filled..]) {
                Ok(0) => {
                    plain.truncate(filled);
                    return Ok(Bytes::from(plain));
                }
                Ok(read) => filled += read,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(malformed(cause)),
            }
        }
        if filled > bytes_max {
            return Err(too_large(bytes_max));
        }
    }
}

fn malformed(cause: io::Error) -> Error {
    Error::invalid(format!("the request cannot be decompressed: {cause}")).with_source(cause)
}

fn too_large(bytes_max: usize) -> Error {
    let message = format!(
        "the request is larger than the limit ingest.request_bytes_max of {bytes_max} bytes after decompression"
    );
    Error::new(ErrorKind::TooLarge, message)
}
