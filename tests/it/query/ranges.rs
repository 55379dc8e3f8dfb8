//! The time range of a query reaches the scan in every table: files outside of it are not opened, and `EXPLAIN` shows it.

use crate::maintain::house::{House, NOW, Plain, SECOND, plain};

const DAY: i64 = 86_400 * SECOND;
const HOUR: i64 = 3_600 * SECOND;

/// Tables of spans, the column of their time, and how far around a range they read.
const TABLES: [(&str, &str, i64); 7] = [
    ("spans", "start_time", 0),
    ("span_events", "start_time", 0),
    ("span_links", "start_time", 0),
    ("otel_traces", "\"Timestamp\"", 0),
    ("traceql('{ }')", "start_time", 0),
    ("traces", "start_time", HOUR),
    ("service_edges", "start_time", HOUR),
];

/// A span now, one of three days ago, and one of six, in a file each.
async fn house() -> House {
    let house = House::open().await;
    for (number, days) in [(1, 6), (2, 3), (3, 0)] {
        let span = Plain { trace: number, span: number, start: NOW - days * DAY, user: "a" };
        house.store(plain(&[span])).await;
    }
    assert_eq!(house.files().await, 3);
    house
}

#[tokio::test]
async fn files_outside_of_a_range_are_not_opened_whichever_table_is_asked() {
    let house = house().await;
    for (table, time, around) in TABLES {
        // 2026-11-21T05:00:00Z, as the scan sees it.
        let bound = NOW - 20 * 60 * SECOND - around;
        for (condition, files, shown) in [
            ("true".to_owned(), 3, String::new()),
            (format!("{time} >= '2026-11-21T05:00:00Z'"), 1, format!("start_time_unix_nano@9 >= {bound}")),
            (format!("{time} >= TIMESTAMP '2026-11-18T07:00:00Z'"), 1, String::new()),
            (format!("{time} < '2026-11-18T07:00:00Z'"), 2, "start_time_unix_nano@9 < ".to_owned()),
            (format!("{time} BETWEEN '2026-11-17' AND '2026-11-19'"), 1, String::new()),
            (format!("{time} > '2026-11-22'"), 0, String::new()),
        ] {
            let plan = house.sql(&format!("EXPLAIN SELECT * FROM {table} WHERE {condition}")).await;
            let scans: Vec<&str> = plan.lines().filter(|line| line.contains("DataSourceExec")).collect();
            assert_eq!(scans.is_empty(), files == 0, "{table} where {condition}: {plan}");
            for scan in scans {
                assert_eq!(scan.matches(".parquet").count(), files, "{table} where {condition}: {plan}");
                assert!(scan.contains(&shown), "{table} where {condition} shows no {shown}: {plan}");
            }
        }
    }
}

#[tokio::test]
async fn days_choose_files_in_every_table_that_has_them() {
    let house = house().await;
    for table in ["spans", "span_events", "span_links", "traces", "service_edges"] {
        let plan = house.sql(&format!("EXPLAIN SELECT * FROM {table} WHERE date = '2026-11-21'")).await;
        let scans = plan.lines().filter(|line| line.contains("DataSourceExec"));
        assert!(scans.map(|scan| scan.matches(".parquet").count()).all(|files| files == 1), "{table}: {plan}");
    }
    let days = "SELECT count(DISTINCT date) FROM attributes WHERE date";
    assert_eq!(house.count(&format!("{days} IS NOT NULL")).await, 3);
    assert_eq!(house.count(&format!("{days} >= '2026-11-17'")).await, 2);
    assert_eq!(
        house.count("SELECT max(files) FROM attributes WHERE date = '2026-11-21' AND key = 'service.name'").await,
        1
    );
}
