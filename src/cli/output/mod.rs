//! Rendering the answer of a query: a stream of Arrow batches in, text or a file out.
//!
//! Every form but the table is written batch by batch, so that the size of an answer is bounded by the disk and not by
//! memory. The table is for eyes: its columns are as wide as their widest value, so it holds all its rows, and shows a
//! bounded number of them. A file appears under its name when it is complete; until then it is `NAME.partial`.

mod pipe;
mod sink;
mod table;
mod traces;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use anyhow::{Context, bail};
use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use clap::{Args, ValueEnum};
use futures::{Stream, StreamExt};

use self::{pipe::Pipe, sink::Sink, table::Table};

/// How an answer is written.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct OutputArgs {
    /// Form of the answer; without it, what the name of the output file ends in, or else a table.
    #[arg(long, short, value_enum)]
    format: Option<Format>,
    /// File to write the answer to, instead of standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Most rows that are written; without it a table shows 1000 and every other form all of them.
    #[arg(long, value_name = "N")]
    rows_max: Option<usize>,
}

/// The forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table for the terminal.
    Table,
    /// One JSON object per line.
    Json,
    /// Comma-separated values with a header; maps, lists and structs as JSON.
    Csv,
    /// Arrow IPC: the file format in a file, the stream format on standard output.
    Arrow,
    /// Parquet, compressed with zstd.
    Parquet,
}

impl Format {
    const FILE_EXTENSIONS: [(&str, Format); 9] = [
        ("txt", Format::Table),
        ("json", Format::Json),
        ("jsonl", Format::Json),
        ("ndjson", Format::Json),
        ("csv", Format::Csv),
        ("arrow", Format::Arrow),
        ("feather", Format::Arrow),
        ("ipc", Format::Arrow),
        ("parquet", Format::Parquet),
    ];

    fn of_file(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Self::FILE_EXTENSIONS.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
    }

    fn is_binary(self) -> bool {
        matches!(self, Format::Arrow | Format::Parquet)
    }
}

/// Rows that a table shows unless told otherwise.
const TABLE_ROWS_MAX: usize = 1_000;

impl OutputArgs {
    /// Writes `batches`, all of `schema`, to where these arguments say.
    ///
    /// # Errors
    /// What the stream or the disk reports; a binary form that would go to a terminal.
    pub(super) async fn write<S>(&self, schema: SchemaRef, batches: S) -> anyhow::Result<()>
    where
        S: Stream<Item = anyhow::Result<RecordBatch>>,
    {
        let format = self.format()?;
        let Some(path) = &self.output else {
            let stdout = io::stdout();
            if format.is_binary() && stdout.is_terminal() {
                bail!("a terminal cannot show this format; write it to a file with --output FILE, or use a pipe");
            }
            let (pipe, is_closed) = Pipe::new(stdout);
            let written = self.write_to(format, schema, batches, BufWriter::new(pipe), Sink::for_pipe).await;
            // The reader has seen enough, as `head` does. Not every form says so in its error.
            return if is_closed.load(Ordering::Relaxed) { Ok(()) } else { written };
        };
        let partial = partial_path(path);
        let create = || File::create(&partial).with_context(|| format!("cannot create {}", partial.display()));
        let written = self.write_to(format, schema, batches, BufWriter::new(create()?), Sink::for_file).await;
        match written {
            Ok(()) => fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display())),
            Err(error) => {
                // The first error says more than a file that cannot be removed.
                let _ = fs::remove_file(&partial);
                Err(error)
            }
        }
    }

    fn format(&self) -> anyhow::Result<Format> {
        match (self.format, &self.output) {
            (Some(format), _) => Ok(format),
            (None, None) => Ok(Format::Table),
            (None, Some(path)) => Format::of_file(path).with_context(|| {
                let known: Vec<&str> = Format::FILE_EXTENSIONS.iter().map(|(extension, _)| *extension).collect();
                format!(
                    "the name of {} does not say its format; use --format, or a name that ends in one of {}",
                    path.display(),
                    known.join(", "),
                )
            }),
        }
    }

    async fn write_to<S, W>(
        &self,
        format: Format,
        schema: SchemaRef,
        batches: S,
        mut out: W,
        sink: fn(Format, SchemaRef, W) -> anyhow::Result<Sink<W>>,
    ) -> anyhow::Result<()>
    where
        S: Stream<Item = anyhow::Result<RecordBatch>>,
        W: Write + Send,
    {
        let rows_max = self.rows_max.unwrap_or(if format == Format::Table { TABLE_ROWS_MAX } else { usize::MAX });
        let mut batches = std::pin::pin!(batches);
        if format == Format::Table {
            let mut table = Table::new(schema, rows_max);
            while let Some(batch) = batches.next().await {
                if table.push(&batch?).is_full() {
                    break;
                }
            }
            out.write_all(table.render()?.as_bytes())?;
            return Ok(out.flush()?);
        }
        let mut sink = sink(format, schema, out)?;
        let mut rows_left = rows_max;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let batch = batch.slice(0, batch.num_rows().min(rows_left));
            rows_left -= batch.num_rows();
            sink.write(&batch).context("cannot write the answer")?;
            if rows_left == 0 {
                break;
            }
        }
        sink.finish().context("cannot write the answer")
    }
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
