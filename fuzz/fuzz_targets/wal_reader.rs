//! The readers of the write-ahead log take any bytes: no panic, no memory beyond the input's size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracehouse::wal::fuzzing::{read_head, read_segment};

fuzz_target!(|bytes: &[u8]| {
    // The first byte picks the reader, so that one corpus serves both.
    match bytes.split_first() {
        Some((0, head)) => read_head(head),
        Some((_, frames)) => drop(read_segment(frames)),
        None => {}
    }
});
