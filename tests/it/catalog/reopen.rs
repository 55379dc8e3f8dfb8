//! A table opened anew is the table that was left: from commits alone, and from a checkpoint and commits after it.

use std::{sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field};
use object_store::path::Path;
use proptest::prelude::*;
use tracehouse::{
    catalog::{Catalog, Commit, Operation, Table},
    model::tenant::TenantId,
    storage::store::Store,
};

use super::{append, catalog, flush, in_memory, manual_clock, new_file, paths, settings, table};

#[derive(Clone, Debug)]
enum Step {
    Append { files: u64 },
    Flush { app: u8 },
    Replace { start: usize, files: usize },
    Delete { start: usize, files: usize },
    AddColumn { number: u8 },
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..4_u64).prop_map(|files| Step::Append { files }),
        4 => (0..3_u8).prop_map(|app| Step::Flush { app }),
        3 => (0..8_usize, 1..5_usize).prop_map(|(start, files)| Step::Replace { start, files }),
        1 => (0..8_usize, 1..3_usize).prop_map(|(start, files)| Step::Delete { start, files }),
        1 => (0..4_u8).prop_map(|number| Step::AddColumn { number }),
        2 => Just(Step::Checkpoint),
    ]
}

async fn take(table: &Arc<Table>, step: &Step) {
    let some = |start: usize, files: usize| -> Vec<Arc<str>> {
        let live = paths(table);
        live.iter().skip(start.min(live.len())).take(files).cloned().collect()
    };
    let commit = match *step {
        Step::Append { files } => append((0..files).map(new_file).collect()),
        Step::Flush { app } => {
            let app_id = format!("log-{app}");
            flush(&app_id, table.snapshot().transaction(&app_id).unwrap_or(0) + 1)
        }
        Step::Replace { start, files } => Commit::replace(some(start, files), vec![new_file(1)], Vec::new()),
        Step::Delete { start, files } => {
            let mut commit = Commit::replace(some(start, files), Vec::new(), Vec::new());
            commit.operation = Operation::Delete;
            if commit.removes.is_empty() {
                return;
            }
            commit
        }
        Step::AddColumn { number } => {
            let field = Field::new(format!("span.column {number}").replace(' ', "."), DataType::Float64, true);
            Commit::append(vec![new_file(1)], None, vec![Arc::new(field)])
        }
        Step::Checkpoint => return table.checkpoint().await.unwrap(),
    };
    table.commit(&commit).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn a_table_opened_anew_is_the_same(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let store = in_memory();
            let (writer, reader) = (table(&store).await, table(&store).await);
            for step in &steps {
                take(&writer, step).await;
            }
            let reopened = table(&store).await;
            assert_eq!(*reopened.snapshot(), *writer.snapshot());
            assert_eq!(*reader.refresh().await.unwrap(), *writer.snapshot());
        });
    }
}

async fn exists(store: &Store, path: &Path) -> bool {
    store.get(path).await.unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_are_written_in_passing_and_old_commits_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::local(folder.path()).unwrap();
    let clock = manual_clock();
    let open = || Catalog::open(store.clone(), Arc::<tracehouse::clock::ManualClock>::clone(&clock), settings());
    let process = open();
    let table = process.table(&TenantId::single()).await.unwrap();
    let log = |name: &str| table.folder().file(&format!("_delta_log/{name}"));
    let commit = |version: u64| log(&format!("{version:020}.json"));
    let checkpoint = |version: u64| log(&format!("{version:020}.checkpoint.parquet"));

    for version in 0..=12 {
        table.commit(&flush("log", version)).await.unwrap();
    }
    process.finish_background().await;
    assert!(exists(&store, &checkpoint(10)).await && exists(&store, &log("_last_checkpoint")).await);
    assert!(exists(&store, &commit(0)).await, "nothing is old enough to be cleaned");

    clock.advance(settings().log_retention + Duration::from_secs(60));
    table.commit(&Commit::replace(paths(&table), vec![new_file(13)], Vec::new())).await.unwrap();
    table.checkpoint().await.unwrap();
    assert!(exists(&store, &checkpoint(13)).await);
    // Everything was written just now by the store's clock, so to the catalogue all of it is old but covered commits go.
    assert!(!exists(&store, &commit(12)).await && !exists(&store, &checkpoint(10)).await);
    assert!(exists(&store, &commit(13)).await);

    let reopened = open().table(&TenantId::single()).await.unwrap();
    assert_eq!(*reopened.snapshot(), *table.snapshot());
    assert_eq!(reopened.snapshot().transaction("log"), Some(12));
    let names: Vec<String> = std::fs::read_dir(folder.path().join(table.folder().path().as_ref()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["_delta_log"], "files in this test exist in the log only");
}

#[tokio::test]
async fn many_callers_open_a_table_once() {
    let store = in_memory();
    table(&store).await.commit(&append(vec![new_file(1)])).await.unwrap();
    let catalog = catalog(&store);
    let tenant = TenantId::single();
    let (one, other) = tokio::join!(catalog.table(&tenant), catalog.table(&tenant));
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()));
}
