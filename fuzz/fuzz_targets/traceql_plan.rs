//! Any text is a TraceQL query that can be planned, or is refused with an error that is its author's to mend.
#![no_main]

use std::cell::OnceCell;

use libfuzzer_sys::fuzz_target;
use tracehouse::query::fuzzing::Planner;

thread_local!(static PLANNER: OnceCell<Planner> = const { OnceCell::new() });

fuzz_target!(|text: &str| {
    PLANNER.with(|planner| {
        let planner = planner.get_or_init(|| Planner::try_new().expect("the engine starts"));
        if let Err(error) = planner.plan(text) {
            panic!("{text}: {error}");
        }
    });
});
