//! How tables are created and kept.

use std::{sync::Arc, time::Duration};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::model::schema::{self, column};

/// How tables are created and kept. [`CatalogSettings::default`] is for `spans`.
#[derive(Clone, Debug)]
pub struct CatalogSettings {
    /// The columns that a new table declares, the partition column included.
    pub columns: SchemaRef,
    /// The columns whose statistics every file of a new table has. Files must have statistics of all of them or
    /// outside readers silently skip rows, so the list is fixed when the table is created.
    pub statistics_columns: Vec<String>,
    /// A checkpoint is written when the number of a commit is divisible by this.
    pub checkpoint_interval_commits: u64,
    /// How long commits stay after a checkpoint covers them. Processes that hold a table without looking at the log
    /// for half of this time open it anew.
    pub log_retention: Duration,
    /// How long replaced files stay for readers that still use an older snapshot.
    pub deleted_file_retention: Duration,
    /// How old the latest commit of another process may be that a query does not see.
    pub snapshot_age_max: Duration,
    /// How often a commit is tried against other writers.
    pub attempts_max: u32,
    /// The longest wait before the second try; doubled for each further one, up to 64 times this.
    pub backoff: Duration,
}

impl Default for CatalogSettings {
    fn default() -> Self {
        let date = Arc::new(Field::new(column::DATE, DataType::Date32, true));
        let fields = schema::logical_schema().fields().iter().cloned().chain([date]).collect::<Vec<_>>();
        Self {
            columns: Arc::new(Schema::new(fields)),
            statistics_columns: vec![column::START_TIME.to_owned(), column::DURATION.to_owned()],
            checkpoint_interval_commits: 100,
            log_retention: Duration::from_secs(24 * 3600),
            deleted_file_retention: Duration::from_secs(3600),
            snapshot_age_max: Duration::from_secs(5),
            attempts_max: 100,
            backoff: Duration::from_millis(5),
        }
    }
}
