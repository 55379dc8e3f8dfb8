//! Queries over more traces than a plan names: the reference gives the expected answers, wherever the spans lie.

use tracehouse::traceql::{self, ast::Body};

use super::{
    evaluated,
    random::engine::{self, Data, Layout, Question},
    reference,
};

/// Traces, beyond those that are named one by one.
const TRACES_MIN: usize = 600;
const EXTENT: i64 = 1_000_000_000_000;
const QUERIES: [&str; 4] = [
    "{ }",
    "{ status = error }",
    "{ status = error } | count() > 1",
    "{ kind = server } >> { duration > 10ns } | by(name)",
];

#[tokio::test]
async fn of_many_traces_all_spans_are_found_wherever_they_lie() {
    let shop = evaluated::read("shop");
    let (last_trace, last_start) =
        shop.iter().fold((0, 0), |(trace, start), span| (span.trace.max(trace), span.start.max(start)));
    let traces = shop.iter().map(|span| span.trace).collect::<std::collections::BTreeSet<_>>().len();
    let spans: Vec<_> = (0..TRACES_MIN.div_ceil(traces))
        .flat_map(|copy| {
            shop.iter().cloned().map(move |mut span| {
                span.trace += (last_trace + 1) * copy as u64;
                span.start += (last_start + 1) * copy as i64;
                span
            })
        })
        .collect();
    let everything = (-EXTENT, EXTENT);
    // From the middle on, some of a file start in the range and others do not.
    let later = (spans[spans.len() / 2].start, EXTENT);
    let thirds = || (0..spans.len()).map(|row| row % 3).collect::<Vec<_>>();
    let layouts = [
        ("in files", Layout { division: thirds(), files: 3, merged: 0 }),
        ("merged and buffered", Layout { division: thirds(), files: 2, merged: 2 }),
    ];
    for (what, layout) in layouts {
        let data = Data::of(&spans, &layout, EXTENT).await;
        for (text, range) in QUERIES.iter().flat_map(|text| [(*text, everything), (*text, later)]) {
            let query = traceql::compile(text).unwrap();
            let Body::Spansets(pipeline) = &query.body else { panic!("{text} is no search") };
            let found = reference::search(pipeline, &spans, range, EXTENT);
            let wanted: Vec<String> = found.iter().map(|found| engine::lines(found, 3)).collect();
            let question = Question { text, range, limit: spans.len(), shown: 3 };
            let answer = engine::ask(&data.engine, &question).await.unwrap();
            assert_eq!(answer.len(), wanted.len(), "{text} {what}, from {}", range.0);
            for (answer, wanted) in answer.iter().zip(&wanted) {
                assert_eq!(answer, wanted, "{text} {what}, from {}", range.0);
            }
        }
    }
}
