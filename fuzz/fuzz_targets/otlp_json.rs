//! Any bytes are an OTLP/JSON request or an error with a place; any text is a stored nested value or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracehouse::{
    model::{promotion::standard, time::TimeRange},
    otlp::{
        json::decode_json,
        json_value,
        rules::{Limits, Rules},
    },
};

fuzz_target!(|request: &[u8]| {
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    if let Ok(decoded) = decode_json(request, &standard(), &rules) {
        assert!(decoded.batch.num_spans() as u64 + decoded.rejected.total() <= request.len() as u64);
    }
    if let Ok(text) = std::str::from_utf8(request) {
        let _ = json_value::parse(text);
    }
});
