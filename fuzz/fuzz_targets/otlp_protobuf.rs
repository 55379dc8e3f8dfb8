//! Any bytes are an OTLP request or an error, and every span of a request is kept or counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracehouse::{
    model::{promotion::standard, time::TimeRange},
    otlp::{
        decode::decode_protobuf,
        rules::{Limits, Rules},
    },
};

fuzz_target!(|request: &[u8]| {
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    if let Ok(decoded) = decode_protobuf(request, &standard(), &rules) {
        assert!(decoded.batch.num_spans() as u64 + decoded.rejected.total() <= request.len() as u64);
        let _ = decoded.rejected.to_string();
    }
});
