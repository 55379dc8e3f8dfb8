//! `tracehouse sql`: one SQL statement, its answer in any form.

use std::io::{self, Read};

use anyhow::Context;
use clap::Args;

use super::{output::OutputArgs, remote::Remote, settings::SourceArgs};

/// Arguments of `tracehouse sql`.
#[derive(Args, Debug)]
pub(super) struct SqlArgs {
    /// The statement; - reads it from standard input.
    #[arg(value_name = "SQL")]
    statement: String,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What is asked.
#[derive(Args, Debug)]
pub(super) struct TargetArgs {
    /// URL of a running server's Flight SQL port; without it, the one of the settings.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    #[command(flatten)]
    sources: SourceArgs,
}

impl TargetArgs {
    /// The URL of the server to ask.
    pub(super) fn server(&self) -> anyhow::Result<String> {
        match &self.server {
            Some(url) => Ok(url.clone()),
            None => Ok(format!("http://{}", self.sources.load(Vec::new())?.settings().server.flight_listen)),
        }
    }
}

pub(super) fn run(args: &SqlArgs) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let remote = Remote::connect(&args.target.server()?).await?;
        let (schema, batches) = remote.sql(query_text(&args.statement)?).await?;
        args.output.write(schema, batches).await
    })
}

/// The text of a query argument.
pub(super) fn query_text(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("cannot read the query from standard input")?;
    Ok(text)
}
