//! The `.slt` files of `tests/slt`, each run on the same spans in every state that they can be in.
//!
//! With `TRACEHOUSE_BLESS=1` in the environment, the first state writes its answers into the files and the others check
//! them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    datatypes::DataType,
    util::display::{ArrayFormatter, FormatOptions},
};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner, default_normalizer, default_validator};
use tracehouse::{
    catalog::{Catalog, CatalogSettings},
    clock::{Clock, ManualClock},
    config::Settings,
    error::Error,
    ingest::{Ingest, IngestParts, WriteRequest, dedup},
    metrics::Metrics,
    model::{promotion, tenant::TenantId, time::TimeRange},
    otlp::{
        json::decode_json,
        rules::{Limits, Rules},
    },
    query::{QueryEngine, QueryRequest},
    storage::store::Store,
};

/// 2026-01-03T00:00:00Z, a little after the last span.
pub(crate) const NOW: i64 = 1_767_398_400_000_001_000;

const DATA: [&str; 2] = [include_str!("../slt/data/first.json"), include_str!("../slt/data/second.json")];

/// Where the spans are while the files run.
#[derive(Clone, Copy, Debug)]
enum State {
    /// In memory and in the log.
    Buffered,
    /// In files.
    Flushed,
    /// The first request in files, the second in memory.
    Half,
    /// In memory, after a crash.
    Recovered,
    /// In two sets of files.
    FlushedTwice,
    /// In files that were merged.
    Compacted,
}

/// A data folder with its parts.
pub(crate) struct House {
    folder: tempfile::TempDir,
    pub(crate) ingest: Arc<Ingest>,
    store: Store,
    clock: Arc<dyn Clock>,
}

pub(crate) async fn open(folder: tempfile::TempDir) -> House {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    let store = Store::local(folder.path()).unwrap();
    let catalog = Arc::new(Catalog::open(store.clone(), Arc::clone(&clock), CatalogSettings::default()));
    let parts = IngestParts {
        settings: Arc::new(Settings::default()),
        store: store.clone(),
        catalog,
        clock: Arc::clone(&clock),
        metrics: Arc::new(Metrics::new().unwrap()),
    };
    let (ingest, _) = Ingest::open(parts, &folder.path().join("wal")).await.unwrap();
    House { folder, ingest, store, clock }
}

async fn write(house: &House, body: &str) {
    let rules = Rules { limits: Limits::default(), time_window: TimeRange::ALL };
    let decoded = decode_json(body.as_bytes(), &promotion::standard(), &rules).unwrap();
    assert!(decoded.rejected.is_empty());
    let digest = dedup::digest(body.as_bytes());
    let request = WriteRequest { batch: decoded.batch, digest, received_unix_nano: NOW };
    house.ingest.write(&TenantId::single(), request).await.unwrap();
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

async fn house_in(state: State) -> House {
    let house = open(tempfile::tempdir().unwrap()).await;
    write(&house, DATA[0]).await;
    if matches!(state, State::Half | State::FlushedTwice | State::Compacted) {
        house.ingest.flush().await.unwrap();
    }
    write(&house, DATA[1]).await;
    match state {
        State::Buffered | State::Half => house,
        State::Flushed | State::FlushedTwice => {
            house.ingest.flush().await.unwrap();
            house
        }
        State::Compacted => {
            house.ingest.flush().await.unwrap();
            let merged = crate::maintain::compact_all(house.ingest.live().catalog(), &house.clock).await;
            assert!(merged.merges > 0, "{merged:?}");
            house
        }
        State::Recovered => {
            // What a crash leaves is what is on disk now.
            let copy = tempfile::tempdir().unwrap();
            copy_folder(house.folder.path(), copy.path()).unwrap();
            open(copy).await
        }
    }
}

pub(crate) fn engine(house: &House) -> QueryEngine {
    let clock = Arc::clone(&house.clock);
    QueryEngine::try_new(crate::engines::options(house.ingest.live(), &house.store, clock, house.folder.path()))
        .unwrap()
}

/// A connection of the runner.
struct Connection(Arc<QueryEngine>);

#[async_trait::async_trait]
impl AsyncDB for Connection {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, text: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let stream = self.0.execute(QueryRequest::sql(TenantId::single(), text)).await?;
        let types = stream.schema().fields().iter().map(|field| column_type(field.data_type())).collect();
        let (batches, _) = stream.collect().await?;
        Ok(DBOutput::Rows { types, rows: batches.iter().flat_map(rows).collect() })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "tracehouse"
    }
}

fn column_type(data_type: &DataType) -> DefaultColumnType {
    match data_type {
        data_type if data_type.is_integer() => DefaultColumnType::Integer,
        data_type if data_type.is_floating() => DefaultColumnType::FloatingPoint,
        _ => DefaultColumnType::Text,
    }
}

fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
    let cell = |column: &ArrayFormatter<'_>, row: usize| match column.value(row).to_string() {
        text if text.is_empty() => "(empty)".to_owned(),
        text => text,
    };
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect()
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    files
}

async fn check(state: State) {
    let house = house_in(state).await;
    let engine = Arc::new(engine(&house));
    let connect = || {
        let engine = Arc::clone(&engine);
        async move { Ok(Connection(engine)) }
    };
    let bless = std::env::var_os("TRACEHOUSE_BLESS").is_some() && matches!(state, State::Buffered);
    let mut faults = Vec::new();
    for file in files() {
        let mut runner = Runner::new(connect);
        if bless {
            let columns = sqllogictest::default_column_validator;
            runner.update_test_file(&file, "\t", default_validator, default_normalizer, columns).await.unwrap();
        } else if let Err(error) = runner.run_file_async(&file).await {
            faults.push(error.to_string());
        }
    }
    assert!(faults.is_empty(), "{state:?}:\n{}", faults.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_pass_on_buffered_spans() {
    check(State::Buffered).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_pass_on_flushed_spans() {
    check(State::Flushed).await;
    check(State::FlushedTwice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_pass_on_compacted_spans() {
    check(State::Compacted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_pass_on_spans_that_are_half_flushed() {
    check(State::Half).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_files_pass_on_recovered_spans() {
    check(State::Recovered).await;
}
