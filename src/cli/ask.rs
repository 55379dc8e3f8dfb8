//! Who answers a query, for the commands that ask: a running server.

use anyhow::Context;
use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use clap::Args;
use futures::stream::BoxStream;

use super::{output::OutputArgs, remote::Remote, settings::SourceArgs};
use crate::query::QueryKind;

/// Who is asked.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// URL of a running server's Flight SQL port; without it, the one of the settings.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    sources: SourceArgs,
}

/// An answer on its way.
pub(super) struct Answer {
    /// The schema of every batch.
    pub(super) schema: SchemaRef,
    /// The rows.
    pub(super) batches: BoxStream<'static, anyhow::Result<RecordBatch>>,
}

/// Asks `query` and writes the answer to where `output` says.
pub(super) fn ask(target: &TargetArgs, query: QueryKind, output: &OutputArgs) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let answer = Remote::connect(&target.server()?).await?.ask(query).await?;
        output.write(answer.schema, answer.batches).await
    })
}

impl TargetArgs {
    /// The URL of the server to ask.
    fn server(&self) -> anyhow::Result<String> {
        match &self.server {
            Some(url) => Ok(url.clone()),
            None => Ok(format!("http://{}", self.sources.load(Vec::new())?.settings().server.flight_listen)),
        }
    }
}
