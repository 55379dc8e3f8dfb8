//! Any text is a TraceQL query or an error with a place, and a valid query prints to text that reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracehouse::traceql;

fuzz_target!(|text: &str| {
    let _ = traceql::parse_reference(text);
    let _ = traceql::search(text);
    if let Ok(query) = traceql::parse(text) {
        let printed = query.to_string();
        match traceql::parse(&printed) {
            Ok(again) => assert_eq!(again, query, "{printed}"),
            // Canonical text can be longer than what it was read from, and too long to read.
            Err(traceql::TraceQlError::TooLarge { .. }) => {}
            Err(error) => panic!("{printed}: {error}"),
        }
    }
});
