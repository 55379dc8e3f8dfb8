//! The table for the terminal.

use std::sync::Arc;

use arrow::{
    datatypes::SchemaRef,
    error::ArrowError,
    record_batch::RecordBatch,
    util::{display::FormatOptions, pretty::pretty_format_batches_with_options},
};

use super::traces;

/// Rows that will be shown, up to a limit.
#[derive(Debug)]
pub(super) struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rows: usize,
    rows_max: usize,
    cut: bool,
}

impl Table {
    pub(super) fn new(schema: SchemaRef, rows_max: usize) -> Self {
        Self { schema, batches: Vec::new(), rows: 0, rows_max, cut: false }
    }

    /// Takes the rows of `batch` that are still shown.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> &Self {
        let rows = batch.num_rows().min(self.rows_max - self.rows);
        self.cut |= rows < batch.num_rows();
        self.rows += rows;
        if rows > 0 {
            self.batches.push(batch.slice(0, rows));
        }
        self
    }

    /// Whether there were more rows than are shown.
    pub(super) fn is_full(&self) -> bool {
        self.cut
    }

    pub(super) fn render(&self) -> Result<String, ArrowError> {
        let options = FormatOptions::default().with_null("NULL").with_display_error(true);
        let mut batches = self.batches.clone();
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(Arc::clone(&self.schema)));
        }
        let batches = batches.iter().map(|batch| traces::for_eyes(batch).unwrap_or_else(|| Ok(batch.clone())));
        let table = pretty_format_batches_with_options(&batches.collect::<Result<Vec<_>, _>>()?, &options)?;
        let rows = self.rows;
        let footer = match (self.cut, rows) {
            (true, _) => {
                format!("{rows} shown, and there are more: --rows-max N shows N, --output FILE takes all")
            }
            (false, 1) => "1 row".to_owned(),
            (false, _) => format!("{rows} rows"),
        };
        Ok(format!("{table}\n{footer}\n"))
    }
}
