//! The body of a request: read, bounded, decompressed.
//!
//! The limit holds for the body after decompression. A compressed body that is larger than it is refused while it is
//! read, and one that grows beyond it stops growing there, so a bomb costs the limit and not what it would become.

use std::{
    borrow::Cow,
    io::{self, Read},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};
use http_body_util::BodyExt;

use super::inflight::Reservation;
use crate::error::{Error, ErrorKind, Result};

/// Length up to which room is made for a body before it is there.
const BELIEVED_BYTES_MAX: usize = 4 << 20;

/// Bytes by which a decompressed body grows at least.
const CHUNK_BYTES: usize = 64 << 10;

/// The largest window that a zstd frame may ask for, as a power of two: what every decoder has to support. The format
/// allows gigabytes, which nothing here accounts for.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A sender that takes longer for its body would hold its part of the budget for nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, and how much of, a refused body is read on.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DRAIN_BYTES_MAX: usize = 64 << 20;

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

/// Reads a body of at most `bytes_max` bytes as they are on the wire. Where headers do not tell its length, its beginning
/// may, by `length_of`.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    bytes_max: usize,
    reservation: &mut Reservation,
    length_of: fn(&[u8]) -> Option<usize>,
) -> Result<Bytes> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(length) = announced {
        if length > bytes_max {
            return Err(too_large(bytes_max));
        }
        reservation.grow_to(length)?;
    }
    let length_of = |start: &[u8]| announced.or_else(|| length_of(start).filter(|length| *length <= bytes_max));
    let read = collect(body, length_of, bytes_max, reservation);
    tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {} s", READ_TIMEOUT.as_secs());
        Err(Error::new(ErrorKind::DeadlineExceeded, message))
    })
}

async fn collect(
    body: &mut Body,
    length_of: impl Fn(&[u8]) -> Option<usize>,
    bytes_max: usize,
    reservation: &mut Reservation,
) -> Result<Bytes> {
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
        reservation.grow_to(total)?;
        match first.take() {
            // One piece is the body: no copy.
            None if joined.is_empty() => first = Some(data),
            None => joined.extend_from_slice(&data),
            Some(before) => {
                // What was not counted yet may be a lie: no more than a usual request is believed.
                joined.reserve(length_of(&before).unwrap_or(0).min(BELIEVED_BYTES_MAX).max(total));
                joined.extend_from_slice(&before);
                joined.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| joined.freeze()))
}

/// Reads what is left of a refused body and forgets it, so that the sender reads the answer and not a reset.
pub(super) fn drain(mut body: Body) {
    let drained = async move {
        let mut length = 0;
        while let Some(Ok(frame)) = body.frame().await {
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > DRAIN_BYTES_MAX {
                break;
            }
        }
    };
    tokio::spawn(async { _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await });
}

/// What `body` becomes, at most `bytes_max` bytes.
pub(super) fn decompress<'a>(
    body: &'a [u8],
    compression: Option<Compression>,
    bytes_max: usize,
    reservation: &mut Reservation,
) -> Result<Cow<'a, [u8]>> {
    let plain = match compression {
        None if body.len() > bytes_max => Err(too_large(bytes_max)),
        None => return Ok(Cow::Borrowed(body)),
        // Some senders announce a compression and send nothing.
        Some(_) if body.is_empty() => return Ok(Cow::Borrowed(body)),
        Some(Compression::Gzip) => read_bounded(MultiGzDecoder::new(body), bytes_max, reservation),
        Some(Compression::Deflate) if is_zlib(body) => read_bounded(ZlibDecoder::new(body), bytes_max, reservation),
        Some(Compression::Deflate) => read_bounded(DeflateDecoder::new(body), bytes_max, reservation),
        Some(Compression::Zstd) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(body).map_err(malformed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(malformed)?;
            read_bounded(decoder, bytes_max, reservation)
        }
    };
    plain.map(Cow::Owned)
}

/// Whether the first two bytes are a zlib header: the method is deflate, and the check bits are right. No encoder starts a
/// bare stream so: it would be a stored block whose padding is not zero.
fn is_zlib(body: &[u8]) -> bool {
    let Some(&[method, flags]) = body.first_chunk::<2>() else { return false };
    method & 0x0f == 8 && (u16::from(method) << 8 | u16::from(flags)).is_multiple_of(31)
}

fn read_bounded(mut decoder: impl Read, bytes_max: usize, reservation: &mut Reservation) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let compressed_bytes = reservation.bytes();
    loop {
        // One byte more than allowed tells "at the limit" from "above it".
        let room = plain.len().max(CHUNK_BYTES).min(bytes_max.saturating_add(1) - plain.len());
        reservation.grow_to(compressed_bytes.saturating_add(plain.len() + room))?;
        plain.reserve_exact(room);
        let filled = (&mut decoder).take(room as u64).read_to_end(&mut plain).map_err(malformed)?;
        if plain.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if filled < room {
            return Ok(plain);
        }
    }
}

fn malformed(cause: io::Error) -> Error {
    let problem = match cause.kind() {
        io::ErrorKind::UnexpectedEof => Cow::Borrowed("it ends too early"),
        _ => Cow::Owned(cause.to_string()),
    };
    Error::invalid(format!("the request cannot be decompressed: {problem}")).with_source(cause)
}

/// The error of a request above its size limit.
pub(super) fn too_large(bytes_max: usize) -> Error {
    let message = format!(
        "the request is larger than the limit ingest.request_bytes_max of {bytes_max} bytes after decompression"
    );
    Error::new(ErrorKind::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression as Level,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };
    use prometheus::IntGauge;

    use super::*;
    use crate::receiver::inflight::InFlight;

    fn reservation(bytes: usize) -> Reservation {
        InFlight::new(bytes, IntGauge::new("in_flight", "test").unwrap()).reservation()
    }

    fn plain(compression: Option<Compression>, body: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
        decompress(body, compression, bytes_max, &mut reservation(1 << 30)).map(Cow::into_owned)
    }

    fn all_forms(content: &[u8]) -> Vec<(Option<Compression>, Vec<u8>)> {
        let mut gzip = GzEncoder::new(Vec::new(), Level::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Level::default());
        let mut raw = DeflateEncoder::new(Vec::new(), Level::default());
        for writer in [&mut gzip as &mut dyn Write, &mut zlib, &mut raw] {
            writer.write_all(content).unwrap();
        }
        vec![
            (None, content.to_vec()),
            (Some(Compression::Gzip), gzip.finish().unwrap()),
            (Some(Compression::Deflate), zlib.finish().unwrap()),
            (Some(Compression::Deflate), raw.finish().unwrap()),
            (Some(Compression::Zstd), zstd::encode_all(content, 3).unwrap()),
        ]
    }

    #[test]
    fn every_compression_is_undone_up_to_the_limit_exactly() {
        for length in [0, 1, 1000, 100_000, 300_000] {
            let content: Vec<u8> = (0..length).map(|n: usize| (n * n % 251) as u8).collect();
            for (compression, body) in all_forms(&content) {
                assert_eq!(plain(compression, &body, length).unwrap(), content, "{compression:?}");
                if length > 0 {
                    let error = plain(compression, &body, length - 1).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::TooLarge, "{compression:?}");
                }
            }
        }
    }

    #[test]
    fn truncated_and_foreign_data_is_invalid() {
        let content: Vec<u8> = (0..1000).map(|n: u32| (n * n % 251) as u8).collect();
        for (compression, body) in all_forms(&content).into_iter().skip(1) {
            for end in 1..body.len() {
                let result = plain(compression, &body[..end], 10_000);
                assert!(result.is_err_and(|error| error.kind() == ErrorKind::InvalidArgument), "{compression:?} {end}");
            }
            assert!(plain(compression, b"no such thing", 10_000).is_err());
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit_of_the_request_or_the_budget() {
        let bomb = {
            let mut gzip = GzEncoder::new(Vec::new(), Level::default());
            for _ in 0..1024 {
                gzip.write_all(&[0; 1 << 20]).unwrap();
            }
            gzip.finish().unwrap()
        };
        assert!(bomb.len() < 2 << 20);
        let mut honest = reservation(64 << 20);
        let error = decompress(&bomb, Some(Compression::Gzip), 20 << 20, &mut honest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(honest.bytes() <= (20 << 20) + 1);

        let error = decompress(&bomb, Some(Compression::Gzip), 20 << 20, &mut reservation(1 << 20)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn gzip_of_several_members_is_one_body() {
        let form = |text: &[u8]| all_forms(text).swap_remove(1).1;
        let body = [form(b"first, "), form(b"second")].concat();
        assert_eq!(plain(Some(Compression::Gzip), &body, 100).unwrap(), b"first, second");
    }

    #[test]
    fn a_zstd_frame_that_asks_for_a_huge_window_is_refused() {
        // Magic, a descriptor without size, a window of 2^30 bytes, an empty last raw block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 0x01, 0x00, 0x00];
        let error = plain(Some(Compression::Zstd), &frame, 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        let small = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00, 0x01, 0x00, 0x00];
        assert_eq!(plain(Some(Compression::Zstd), &small, 1000).unwrap(), b"");
    }
}
