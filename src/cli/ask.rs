//! Who answers a query, for the commands that ask: a running server, or this process on a local data folder.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};

use super::{
    folder::in_use,
    output::OutputArgs,
    remote::Remote,
    settings::{SourceArgs, flag},
};
use crate::{
    clock::SystemClock,
    config::Settings,
    error::Error,
    model::tenant::TenantId,
    query::{AnswerForm, QueryKind, QueryRequest, SEE_LOG},
    server::LocalFolder,
};

/// Who is asked.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// URL of a running server's Flight SQL port; without it and --data, the one of the settings.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Data folder or bucket to read instead of asking a server; no server may have the folder open.
    #[arg(long, value_name = "PLACE", conflicts_with = "server")]
    data: Option<String>,
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
        let flags = target.data.iter().map(|folder| flag("--data", "data", folder)).collect();
        let effective = target.sources.load(flags)?;
        if target.data.is_some() {
            return ask_folder(effective.settings(), query, output).await;
        }
        let of_settings = || format!("http://{}", effective.settings().server.flight_listen);
        let url = target.server.clone().unwrap_or_else(of_settings);
        let answer = Remote::connect(&url).await?.ask(query).await?;
        output.write(answer.schema, answer.batches).await
    })
}

async fn ask_folder(settings: &Settings, query: QueryKind, output: &OutputArgs) -> anyhow::Result<()> {
    let opened = LocalFolder::open(settings, Arc::new(SystemClock)).await;
    let folder = opened.map_err(|error| {
        let flight = settings.server.flight_listen;
        in_use(error, &format!("ask the server: --server http://{flight}, or neither --server nor --data"))
    })?;
    let mut request = QueryRequest::new(TenantId::single(), query);
    request.form = AnswerForm::Plain;
    let stream = folder.engine.execute(request).await.map_err(told_here)?;
    // The folder stays open, and closed to servers, until the last row is written.
    output.write(stream.schema(), stream.map_err(told_here).boxed()).await
}

/// An error of this process's own engine. There is no server's log, and the details are the causes that are printed.
fn told_here(error: Error) -> anyhow::Error {
    match error.message().strip_suffix(SEE_LOG).map(str::to_owned) {
        None => error.into(),
        Some(message) => match std::error::Error::source(&error).map(ToString::to_string) {
            Some(details) => anyhow!(details).context(message),
            None => anyhow!(message),
        },
    }
}
