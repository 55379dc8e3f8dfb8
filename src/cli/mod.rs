//! The command line: arguments in, an exit code out.
//!
//! Each command is one file. A command reads its settings ([`settings`]), builds what it needs and renders what comes
//! back ([`output`]); the work itself is done by the modules below. Results go to standard output, everything else to
//! standard error: log lines, progress, and errors as `error: ...` with their causes.

mod config;
mod demo;
mod serve;
mod sql;
mod traceql;

mod compact;
mod copy;
mod delete;
mod inspect;
mod verify;

mod ask;
mod counted;
mod folder;
mod neighbour;
mod output;
mod remote;
mod settings;

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

/// A SQL-first analytical trace warehouse: OTLP in, Parquet in a Delta table, SQL, TraceQL and Arrow Flight SQL out.
#[derive(Debug, Parser)]
#[command(name = "tracehouse", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the server: receives spans and answers queries.
    Serve(serve::ServeArgs),
    /// Prints the effective settings and where each comes from.
    Config(config::ConfigArgs),
    /// Sends example traces of a small shop to an OTLP endpoint.
    Demo(demo::DemoArgs),
    /// Runs a SQL statement on a running server or a data folder.
    Sql(sql::SqlArgs),
    /// Runs a TraceQL search on a running server or a data folder.
    Traceql(traceql::TraceqlArgs),
    /// Deletes spans for good, on a running server or in a data folder.
    Delete(delete::DeleteArgs),
    /// Merges the small files of a data folder.
    Compact(compact::CompactArgs),
    /// Checks every file, count and checksum of a data folder, and that what was deleted is gone.
    Verify(verify::VerifyArgs),
    /// Shows what is in a data folder: tables, files, columns, log.
    Inspect(inspect::InspectArgs),
    /// Copies the tables to another folder or bucket, also beside a running server.
    Backup(copy::BackupArgs),
    /// Copies the tables of a backup to a folder or bucket that has none.
    Restore(copy::RestoreArgs),
}

/// Runs the command of this process's arguments and says how it went.
pub fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version come this way too. Nothing can be said if even the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match &command_line.command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Sql(args) => sql::run(args),
        Command::Traceql(args) => traceql::run(args),
        Command::Delete(args) => delete::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Backup(args) => copy::backup(args),
        Command::Restore(args) => copy::restore(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// Checks that `arguments`, of which the first is the program's name, are a valid command line.
///
/// # Errors
/// The message that the command would print.
pub fn check_arguments(arguments: &[&str]) -> Result<(), String> {
    match CommandLine::try_parse_from(arguments) {
        // A request for help or the version is an error without a fault.
        Err(error) if error.use_stderr() => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// The reader of our output went away, as `head` does: nobody is left to be told.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    error.chain().any(closed)
}

/// The error and its causes, without the ones that its text already gives.
fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_declared_consistently() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn errors_list_their_causes_once() {
        let inner = Err::<(), _>(std::io::Error::other("disk on fire"));
        let middle = inner.context("cannot write: disk on fire");
        let error = middle.context("cannot flush").unwrap_err();
        assert_eq!(describe(&error), "error: cannot flush\n  caused by: cannot write: disk on fire");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        let gone = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_closed_pipe(&anyhow::Error::new(gone).context("cannot write the result")));
        assert!(!is_closed_pipe(&anyhow::anyhow!("other")));
    }
}
