//! One committer at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::Bytes;
use object_store::path::Path;
use tracehouse::{
    catalog::{Catalog, CatalogError, Commit, CommitOutcome, Operation, Table, action},
    metrics::Metrics,
    model::{tenant::TenantId, time::TimeRange},
    storage::store::{PutNew, Store},
};

use super::{append, catalog, flush, in_memory, manual_clock, new_file, paths, settings, table};

fn field(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

/// Puts a commit into the log as another program would.
async fn foreign_commit(store: &Store, table: &Table, lines: &str) {
    let version = table.snapshot().version().unwrap() + 1;
    let path = table.folder().file(&format!("_delta_log/{version:020}.json"));
    let put = store.put_new(&path, Bytes::from(lines.to_owned())).await.unwrap();
    assert_eq!(put, PutNew::Created);
}

/// The metaData line of the table's creation, changed.
async fn changed_metadata(store: &Store, table: &Table, change: impl Fn(&mut action::MetaData)) -> String {
    let bytes = store.get(&table.folder().file("_delta_log/00000000000000000000.json")).await.unwrap().unwrap();
    let mut metadata = action::decode(&bytes).unwrap().into_iter().find_map(|action| action.meta_data).unwrap();
    change(&mut metadata);
    String::from_utf8(action::encode(&[metadata.into()]).unwrap()).unwrap()
}

#[tokio::test]
async fn commits_lost_races_and_live_files_are_counted() {
    let store = in_memory();
    let metrics = Arc::new(Metrics::new().unwrap());
    let ours = catalog(&store).counting(&metrics);
    let table = ours.table(&TenantId::single()).await.unwrap();
    table.commit(&append(vec![new_file(1)])).await.unwrap();
    catalog(&store).table(&TenantId::single()).await.unwrap().commit(&append(vec![new_file(1)])).await.unwrap();
    table.commit(&append(vec![new_file(1)])).await.unwrap();
    assert_eq!((metrics.catalog_commits.get(), metrics.catalog_conflicts.get()), (2, 1));
    assert_eq!(ours.load(), (3, table.snapshot().size_bytes()));
    let theirs = catalog(&store);
    assert_eq!(theirs.load(), (0, 0), "tables that are not open are not asked");
}

#[tokio::test]
async fn the_first_commit_creates_the_table() {
    let store = in_memory();
    let ours = catalog(&store);
    assert!(ours.tenants().await.unwrap().is_empty());
    let table = ours.table(&TenantId::single()).await.unwrap();
    assert_eq!(table.snapshot().version(), None);
    assert_eq!(table.refresh().await.unwrap().files().len(), 0);

    let file = new_file(7);
    let outcome = table.commit(&append(vec![file.clone()])).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed(_)));
    assert_eq!(table.snapshot().version(), Some(0));
    assert_eq!(ours.tenants().await.unwrap(), [TenantId::single()]);

    let theirs = catalog(&store).table(&TenantId::single()).await.unwrap();
    let snapshot = theirs.snapshot();
    assert_eq!(*snapshot, *table.snapshot());
    let live = snapshot.file(&file.path).unwrap();
    assert_eq!(live.location, table.folder().file(&file.path));
    assert_eq!((live.rows(), live.date, live.size_bytes), (Some(7), Some(file.date), file.size_bytes));
    assert_eq!(live.tags, file.tags);
    assert_eq!((snapshot.rows(), snapshot.size_bytes()), (7, file.size_bytes));
    let (start, end) = live.start_range_unix_nano().unwrap();
    assert!(live.can_hold(TimeRange::new(end, end + 1)) && !live.can_hold(TimeRange::new(start - 1, start)));
    assert_eq!(snapshot.statistics_columns().unwrap(), ["start_time_unix_nano", "duration_nano"]);
}

#[tokio::test]
async fn two_processes_can_create_a_table_at_once() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    one.commit(&append(vec![new_file(1)])).await.unwrap();
    other.commit(&append(vec![new_file(1)])).await.unwrap();
    assert_eq!(other.snapshot().version(), Some(1));
    assert_eq!(*one.refresh().await.unwrap(), *other.snapshot());
    assert_eq!(one.snapshot().files().len(), 2);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let store = in_memory();
    let catalog = catalog(&store);
    let tenants = ["a", "a*b", "b"].map(|name| TenantId::parse(name).unwrap());
    for (tenant, count) in tenants.iter().zip(1..) {
        let files = (0..count).map(|_| new_file(1)).collect();
        catalog.table(tenant).await.unwrap().commit(&append(files)).await.unwrap();
    }
    assert_eq!(catalog.tenants().await.unwrap(), tenants);
    let catalog = self::catalog(&store);
    for (tenant, count) in tenants.iter().zip(1..) {
        assert_eq!(catalog.table(tenant).await.unwrap().snapshot().files().len(), count);
    }
}

#[tokio::test]
async fn a_flush_is_committed_once_however_often_it_is_tried() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    one.commit(&flush("log", 5)).await.unwrap();
    for version in [5, 4] {
        let outcome = one.commit(&flush("log", version)).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::AlreadyCommitted(_)), "{outcome:?}");
    }
    // The other process knows of the first flush only once its own try is refused.
    assert_eq!(other.snapshot().transaction("log"), None);
    let outcome = other.commit(&flush("log", 5)).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::AlreadyCommitted(_)), "{outcome:?}");
    other.commit(&flush("log", 6)).await.unwrap();
    let snapshot = one.refresh().await.unwrap();
    assert_eq!((snapshot.transaction("log"), snapshot.files().len()), (Some(6), 2));
    assert_eq!(snapshot.transaction("other log"), None);
}

#[tokio::test]
async fn a_file_is_replaced_once_and_not_deleted_after() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    one.commit(&append(vec![new_file(1), new_file(1)])).await.unwrap();
    other.refresh().await.unwrap();
    let before = paths(&one);

    let compaction = Commit::replace(before.clone(), vec![new_file(2)], Vec::new());
    one.commit(&compaction).await.unwrap();
    let again = one.commit(&compaction).await.unwrap();
    assert!(matches!(again, CommitOutcome::AlreadyCommitted(_)), "{again:?}");

    let second = Commit::replace(before[..1].to_vec(), vec![new_file(1)], Vec::new());
    let error = other.commit(&second).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotLive { .. }), "{error}");
    let mut deletion = Commit::replace(before, Vec::new(), Vec::new());
    deletion.operation = Operation::Delete;
    let error = other.commit(&deletion).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotLive { .. }), "{error}");
    assert_eq!((other.snapshot().files().len(), other.snapshot().rows()), (1, 2));
}

#[tokio::test]
async fn a_file_that_came_with_an_unseen_commit_can_be_replaced() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    one.commit(&append(vec![new_file(1)])).await.unwrap();
    other.commit(&Commit::replace(paths(&one), vec![new_file(1)], Vec::new())).await.unwrap();
    assert_eq!(one.refresh().await.unwrap().files().len(), 1);
}

#[tokio::test]
async fn a_reader_catches_up_with_many_commits() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    for version in 0..45 {
        one.commit(&flush("log", version)).await.unwrap();
    }
    assert_eq!(*other.refresh().await.unwrap(), *one.snapshot());
}

#[tokio::test]
async fn columns_are_added_and_never_retyped() {
    let store = in_memory();
    let (one, other) = (table(&store).await, table(&store).await);
    let with = |fields: Vec<FieldRef>| Commit::append(vec![new_file(1)], None, fields);
    one.commit(&with(vec![field("span.http.route", DataType::Utf8)])).await.unwrap();
    other.commit(&with(vec![field("span.n", DataType::Int64)])).await.unwrap();
    let repeated = vec![field("span.n", DataType::Int64), field("span.http.route", DataType::Utf8)];
    let outcome = one.commit(&with(repeated)).await.unwrap();
    let schema = outcome.snapshot().schema().unwrap().clone();
    let names: Vec<&str> = schema.columns().iter().rev().take(3).map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["span.n", "span.http.route", "date"]);
    assert!(schema.column("span.n").unwrap().nullable);

    for wrong in [field("span.n", DataType::Utf8), field("Span.N", DataType::Int64), field("flags", DataType::Utf8)] {
        let error = other.commit(&with(vec![wrong])).await.unwrap_err();
        assert!(matches!(error, CatalogError::ColumnType { .. }), "{error}");
    }
    assert_eq!(other.refresh().await.unwrap().files().len(), 3);
}

#[tokio::test]
async fn columns_that_another_program_adds_are_kept() {
    let store = in_memory();
    let table = table(&store).await;
    table.commit(&append(vec![new_file(1)])).await.unwrap();
    let column = r#",{"name":"theirs","type":"decimal(10,2)","nullable":true,"metadata":{"note":"x"}}]}"#;
    let lines = changed_metadata(&store, &table, |metadata| {
        metadata.schema_string = format!("{}{column}", metadata.schema_string.strip_suffix("]}").unwrap());
        metadata.configuration.insert("their.property".to_owned(), Some("y".to_owned()));
    });
    foreign_commit(&store, &table, &lines.await).await;
    let ours = field("span.ours", DataType::Boolean);
    table.commit(&Commit::append(vec![new_file(1)], None, vec![ours])).await.unwrap();

    let reopened = super::table(&store).await;
    let snapshot = reopened.snapshot();
    assert_eq!(*snapshot, *table.snapshot());
    let names: Vec<&str> = snapshot.schema().unwrap().columns().iter().map(|column| column.name.as_str()).collect();
    assert!(names.ends_with(&["theirs", "span.ours"]), "{names:?}");
    assert_eq!(snapshot.schema().unwrap().column("theirs").unwrap().metadata["note"], "x");
    let last = store.get(&table.folder().file("_delta_log/00000000000000000002.json")).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&last).contains(r#""their.property":"y""#));
}

#[tokio::test]
async fn a_table_made_append_only_is_compacted_and_not_deleted_from() {
    let store = in_memory();
    let table = table(&store).await;
    table.commit(&append(vec![new_file(1)])).await.unwrap();
    let lines = changed_metadata(&store, &table, |metadata| {
        metadata.configuration.insert("delta.appendOnly".to_owned(), Some("true".to_owned()));
    });
    foreign_commit(&store, &table, &lines.await).await;
    table.refresh().await.unwrap();
    table.commit(&Commit::replace(paths(&table), vec![new_file(1)], Vec::new())).await.unwrap();
    let mut deletion = Commit::replace(paths(&table), Vec::new(), Vec::new());
    deletion.operation = Operation::Delete;
    let error = table.commit(&deletion).await.unwrap_err();
    assert!(error.to_string().contains("delta.appendOnly"), "{error}");
}

#[tokio::test]
async fn what_this_release_does_not_understand_is_refused() {
    let feature = r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#;
    let vector = r#"{"add":{"path":"x","partitionValues":{"date":"2026-11-01"},"size":1,"modificationTime":1,"dataChange":true,"deletionVector":{"storageType":"u","pathOrInlineDv":"ab^-aqEH.-t@S}K{vb[*k^","offset":4,"sizeInBytes":40,"cardinality":6}}}"#;
    let outside = r#"{"add":{"path":"file:///etc/passwd","partitionValues":{"date":"2026-11-01"},"size":1,"modificationTime":1,"dataChange":true}}"#;
    let store = in_memory();
    let newer = {
        let table = table(&store).await;
        table.commit(&append(vec![new_file(1)])).await.unwrap();
        let version = || Some("2".to_owned());
        changed_metadata(&store, &table, |metadata| {
            metadata.configuration.insert("tracehouse.formatVersion".to_owned(), version());
        })
        .await
    };
    for (lines, expected) in [
        (newer.as_str(), "format version 2"),
        (feature, "deletionVectors"),
        (vector, "deletion vectors"),
        (outside, "outside of its folder"),
        ("{\"add\":", "corrupt"),
    ] {
        let store = in_memory();
        let table = table(&store).await;
        table.commit(&append(vec![new_file(1)])).await.unwrap();
        foreign_commit(&store, &table, lines).await;
        let check = |error: CatalogError| assert!(error.to_string().contains(expected), "{error}");
        check(table.refresh().await.unwrap_err());
        check(table.commit(&append(vec![new_file(1)])).await.unwrap_err());
        assert_eq!(table.snapshot().files().len(), 1);
        let reopened = catalog(&store).table(&TenantId::single()).await;
        // The kernel refuses a torn commit in words of its own.
        match reopened.unwrap_err() {
            error @ CatalogError::Kernel { .. } => assert_eq!(expected, "corrupt", "{error}"),
            error => check(error),
        }
    }
}

#[tokio::test]
async fn commits_that_would_mislead_readers_are_refused() {
    let table = table(&in_memory()).await;
    let no_statistics = {
        let mut file = new_file(1);
        file.statistics.columns.remove("duration_nano");
        append(vec![file])
    };
    let large_tags = {
        let mut file = new_file(1);
        file.tags = BTreeMap::from([("k".to_owned(), "x".repeat(1024))]);
        append(vec![file])
    };
    let wrong_folder = {
        let mut file = new_file(1);
        file.path = "date=1999-01-01/x.parquet".to_owned();
        append(vec![file])
    };
    let file = new_file(1);
    let twice = append(vec![file.clone(), file]);
    for (commit, expected) in [
        (no_statistics, "duration_nano"),
        (large_tags, "1025 bytes"),
        (wrong_folder, "not in the folder"),
        (twice, "twice"),
        (append(Vec::new()), "changes nothing"),
    ] {
        let error = table.commit(&commit).await.unwrap_err();
        assert!(matches!(error, CatalogError::InvalidCommit { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert_eq!(table.snapshot().version(), None);
}

/// A process that slept while the log it knows was cleaned away must not continue where it stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_slept_through_the_cleaning_of_the_log_does_not_fork_it() {
    let store = in_memory();
    let clock = manual_clock();
    let open = || Catalog::open(store.clone(), Arc::<tracehouse::clock::ManualClock>::clone(&clock), settings());
    let tenant = TenantId::single();
    let (sleeper, worker) = (open().table(&tenant).await.unwrap(), open().table(&tenant).await.unwrap());
    sleeper.commit(&append(vec![new_file(1)])).await.unwrap();
    for _ in 0..5 {
        worker.commit(&append(vec![new_file(1)])).await.unwrap();
    }
    worker.checkpoint().await.unwrap();
    worker.commit(&append(vec![new_file(1)])).await.unwrap();
    clock.advance(settings().log_retention + Duration::from_secs(60));
    worker.refresh().await.unwrap();
    worker.checkpoint().await.unwrap();
    let cleaned = table_log(&store, &worker, 1).await;
    assert!(cleaned.is_none(), "commit 1 is covered and expired");

    sleeper.commit(&append(vec![new_file(1)])).await.unwrap();
    assert_eq!(sleeper.snapshot().version(), Some(7));
    assert_eq!(*worker.refresh().await.unwrap(), *sleeper.snapshot());
    assert_eq!(worker.snapshot().files().len(), 8);
}

async fn table_log(store: &Store, table: &Table, version: u64) -> Option<Bytes> {
    let path: Path = table.folder().file(&format!("_delta_log/{version:020}.json"));
    store.get(&path).await.unwrap()
}
