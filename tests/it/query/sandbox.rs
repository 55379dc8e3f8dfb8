//! The corpus of hostile and of harmless statements.

use tracehouse::error::ErrorKind;

use crate::query::data::{small_engine, sql};

/// Cases of a corpus file: blocks between blank lines, comments aside.
fn blocks(corpus: &str) -> Vec<String> {
    let lines: Vec<&str> = corpus.lines().filter(|line| !line.starts_with('#')).collect();
    lines.join("\n").split("\n\n").map(|block| block.trim().to_owned()).filter(|block| !block.is_empty()).collect()
}

/// Whether an error of this kind says that the statement is at fault, and not the server.
fn is_refusal(kind: ErrorKind) -> bool {
    use ErrorKind::{InvalidArgument, ResourceExhausted, Unsupported};
    matches!(kind, InvalidArgument | Unsupported | ResourceExhausted)
}

#[tokio::test]
async fn hostile_statements_are_refused_with_a_reason() {
    let engine = small_engine();
    let mut faults = Vec::new();
    for block in blocks(include_str!("../../sql/hostile.txt")) {
        let (statement, expected) = block.rsplit_once("\n=> ").unwrap();
        let outcome = async { engine.execute(sql(statement)).await?.collect().await.map(drop) };
        match outcome.await {
            Ok(()) => faults.push(format!("{statement}\n   ran")),
            Err(error) if error.message() != expected => faults.push(format!("{statement}\n=> {error}")),
            Err(error) if !is_refusal(error.kind()) => {
                faults.push(format!("{statement}\n   kind {:?}", error.kind()));
            }
            Err(_) => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[tokio::test]
async fn harmless_statements_run_and_answer_in_the_schema_that_was_announced() {
    let engine = small_engine();
    let mut faults = Vec::new();
    for statement in blocks(include_str!("../../sql/valid.txt")) {
        let prepared = engine.prepare(sql(&statement)).await;
        let outcome = async {
            let stream = engine.execute(sql(&statement)).await?;
            let schema = stream.schema();
            stream.collect().await.map(|(batches, _)| (schema, batches))
        };
        match (outcome.await, prepared) {
            (Ok((schema, batches)), Ok(prepared)) => {
                if schema != prepared.schema || batches.iter().any(|batch| batch.schema() != schema) {
                    faults.push(format!("{statement}\n   announced {:?}\n   sent {schema:?}", prepared.schema));
                }
            }
            (Err(error), _) | (_, Err(error)) => faults.push(format!("{statement}\n=> {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}
