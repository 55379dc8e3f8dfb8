//! `tracehouse sql`: one SQL statement, its answer in any form.

use std::io::{self, Read};

use anyhow::Context;
use clap::Args;

use super::{
    ask::{TargetArgs, ask},
    output::OutputArgs,
};
use crate::query::{QueryKind, SqlQuery};

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

pub(super) fn run(args: &SqlArgs) -> anyhow::Result<()> {
    let query = SqlQuery { text: query_text(&args.statement)?, params: Vec::new() };
    ask(&args.target, QueryKind::Sql(query), &args.output)
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
