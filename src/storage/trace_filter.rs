//! Which traces have spans in a file, roughly: a set of ids that says "no" or "perhaps".
//!
//! An id's hash is scaled to a number below `n * 4096`, n being the number of traces; the sorted numbers are kept in the
//! Elias-Fano form. One of 4,096 foreign ids is taken for one of the file's, at 14.5 bits per trace. So a look-up among
//! thousands of files opens those that have the trace, and one more now and then.
//!
//! ```text
//! magic "THTF1\0\0\0"
//! n       u64   traces
//! counts  u32 for each 64 buckets: traces before the first of them; bucket b has the numbers of b * 4096 .. (b + 1) * 4096
//! bucket  u64 words: for each of n buckets a 1 per trace in it, then a 0; the lowest bit comes first
//! low     12 bits per trace in order, three bytes for two: the number's remainder in its bucket
//! ```
//!
//! All numbers are little-endian. The filter lies in its Parquet file between the last row group and the footer, where
//! other readers do not look; the file's entry in the table's log says where, so that it is read without the footer. It is
//! as immutable as the file, and goes with it.

use std::ops::Range;

use crate::model::ids::TraceId;

const MAGIC: &[u8; 8] = b"THTF1\0\0\0";

const HEADER_BYTES: usize = 16;

/// Buckets that share an entry in `counts`.
const BUCKETS_PER_COUNT: usize = 64;

const LOW_BITS: u32 = 12;

/// Collects the traces of a file.
#[derive(Debug, Default)]
pub(crate) struct TraceFilterBuilder {
    hashes: Vec<u64>,
    last: Option<[u8; TraceId::LEN]>,
}

impl TraceFilterBuilder {
    /// Adds the trace of a span. In the order of a file the spans of a trace lie together, so it is kept once.
    pub(crate) fn add(&mut self, id: &[u8]) {
        let Ok(id) = <[u8; TraceId::LEN]>::try_from(id) else { return };
        if self.last != Some(id) {
            self.last = Some(id);
            self.hashes.push(hash(&id));
        }
    }

    /// The filter's bytes; `None` without traces.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        let mut numbers = self.hashes;
        numbers.sort_unstable();
        numbers.dedup();
        let n = numbers.len();
        if n == 0 || u32::try_from(n).is_err() {
            return None;
        }
        numbers.iter_mut().for_each(|hash| *hash = scaled(*hash, n as u64));
        let mut bytes = Vec::with_capacity(Parts::of_len(n).low.end);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(n as u64).to_le_bytes());
        let mut words = vec![0_u64; (2 * n).div_ceil(64)];
        let mut next = 0;
        for bucket in 0..n {
            if bucket % BUCKETS_PER_COUNT == 0 {
                bytes.extend_from_slice(&(next as u32).to_le_bytes());
            }
            while next < n && (numbers[next] >> LOW_BITS) as usize == bucket {
                let bit = next + bucket;
                words[bit / 64] |= 1 << (bit % 64);
                next += 1;
            }
        }
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        for pair in numbers.chunks(2) {
            let low = |number: Option<&u64>| number.map_or(0, |number| (*number & ((1 << LOW_BITS) - 1)) as u32);
            let both = low(pair.first()) | low(pair.get(1)) << LOW_BITS;
            bytes.extend_from_slice(&both.to_le_bytes()[..3]);
        }
        Some(bytes)
    }
}

/// A filter in memory.
#[derive(Clone, Debug)]
pub(crate) struct TraceFilter {
    bytes: bytes::Bytes,
    len: usize,
    parts: Parts,
}

/// Where the parts of a filter are.
#[derive(Clone, Debug)]
struct Parts {
    counts: Range<usize>,
    words: Range<usize>,
    low: Range<usize>,
}

impl Parts {
    fn of_len(n: usize) -> Self {
        let counts = HEADER_BYTES..HEADER_BYTES + 4 * n.div_ceil(BUCKETS_PER_COUNT);
        let words = counts.end..counts.end + 8 * (2 * n).div_ceil(64);
        let low = words.end..words.end + 3 * n.div_ceil(2);
        Self { counts, words, low }
    }
}

impl TraceFilter {
    /// Reads a filter; `None` if these bytes are not one.
    pub(crate) fn from_bytes(bytes: bytes::Bytes) -> Option<Self> {
        if bytes.get(..8)? != MAGIC {
            return None;
        }
        let len = u64::from_le_bytes(bytes.get(8..HEADER_BYTES)?.try_into().ok()?);
        let len = usize::from(u32::try_from(len).is_ok()) * len as usize;
        let parts = Parts::of_len(len);
        (len > 0 && parts.low.end == bytes.len()).then_some(Self { bytes, len, parts })
    }

    /// Memory that it holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// Whether the file can have spans of the trace. A damaged filter says yes.
    pub(crate) fn may_hold(&self, id: TraceId) -> bool {
        let number = scaled(hash(id.as_bytes()), self.len as u64);
        self.find(number).unwrap_or(true)
    }

    fn find(&self, number: u64) -> Option<bool> {
        let bucket = (number >> LOW_BITS) as usize;
        let group = bucket / BUCKETS_PER_COUNT;
        let counts = &self.bytes[self.parts.counts.clone()];
        let mut trace = u32::from_le_bytes(counts.get(4 * group..4 * group + 4)?.try_into().ok()?) as usize;
        let mut at = group * BUCKETS_PER_COUNT;
        loop {
            let is_trace = self.bit(trace + at)?;
            match is_trace {
                true if at == bucket && self.low(trace)? == number & ((1 << LOW_BITS) - 1) => return Some(true),
                true => trace += 1,
                false if at == bucket => return Some(false),
                false => at += 1,
            }
        }
    }

    fn bit(&self, index: usize) -> Option<bool> {
        let byte = self.bytes[self.parts.words.clone()].get(index / 8)?;
        Some(byte >> (index % 8) & 1 == 1)
    }

    fn low(&self, trace: usize) -> Option<u64> {
        let low = &self.bytes[self.parts.low.clone()];
        let three = low.get(trace / 2 * 3..trace / 2 * 3 + 3)?;
        let both = u64::from(three[0]) | u64::from(three[1]) << 8 | u64::from(three[2]) << 16;
        Some(both >> (LOW_BITS as usize * (trace % 2)) & ((1 << LOW_BITS) - 1))
    }
}

/// Ids are random as a rule, but for those of 64 bits and of careless senders.
fn hash(id: &[u8; TraceId::LEN]) -> u64 {
    let mixed = |hash: u64| {
        let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    };
    let id = u128::from_be_bytes(*id);
    mixed((id >> 64) as u64 ^ mixed(id as u64 ^ 0x9e37_79b9_7f4a_7c15))
}

/// A hash as a number below `n * 4096`, in the same order.
fn scaled(hash: u64, n: u64) -> u64 {
    ((u128::from(hash) * u128::from(n << LOW_BITS)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TraceId {
        TraceId::from_bytes(u128::from(n + 1).to_be_bytes())
    }

    fn filter(traces: u64) -> TraceFilter {
        let mut builder = TraceFilterBuilder::default();
        for n in 0..traces {
            builder.add(id(n).as_bytes());
            builder.add(id(n).as_bytes());
        }
        TraceFilter::from_bytes(builder.finish().unwrap().into()).unwrap()
    }

    #[test]
    fn every_trace_is_found_and_one_foreign_one_in_four_thousand() {
        for traces in [1, 2, 63, 64, 65, 1_000, 20_000] {
            let filter = filter(traces);
            assert!((0..traces).all(|n| filter.may_hold(id(n))), "{traces}");
            let foreign = (0..40_000).filter(|n| filter.may_hold(id(1_000_000 + n))).count();
            assert!(foreign < 30, "{foreign} of 40,000 with {traces}");
        }
    }

    #[test]
    fn a_million_traces_take_less_than_two_megabytes() {
        let bytes = Parts::of_len(1_000_000).low.end;
        assert!(bytes < 1_830_000, "{bytes}");
        assert_eq!(filter(1_000).bytes.len(), Parts::of_len(1_000).low.end);
    }

    #[test]
    fn what_is_not_a_filter_is_refused() {
        assert!(TraceFilterBuilder::default().finish().is_none());
        let bytes = filter(100).bytes;
        for broken in [&bytes[..0], &bytes[..10], &bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
            assert!(TraceFilter::from_bytes(broken.to_vec().into()).is_none());
        }
        let mut changed = bytes.to_vec();
        changed[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(TraceFilter::from_bytes(changed.into()).is_none());
    }
}
