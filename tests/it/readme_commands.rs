//! The commands that the documents show, run in their order: those towards a server while one runs, and those on a folder
//! after it has stopped. What an address or a place is called in a document is replaced by what the test has there.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{command_line::tracehouse, readme, support::process::Server};

/// Names of places in the documents, and folders of the test that stand for them. Of the tables of a server, `data` is the
/// one that the test's server has.
const PLACES: &[(&str, &str)] = &[
    ("./tracehouse-data", "data"),
    ("/var/lib/tracehouse", "data"),
    ("s3://backups/tracehouse", "backup"),
    ("/backups/tracehouse", "backup"),
    ("s3://bucket/prefix", "data"),
    ("./restored", "restored-1"),
    ("/var/lib/restored", "restored-2"),
];

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A text of a document with the addresses of `server`.
fn at_server(shown: &str, server: &Server) -> String {
    let addresses =
        [("4317", &server.otlp_grpc), ("4318", &server.otlp_http), ("3200", &server.tempo), ("32010", &server.flight)];
    let mut text = shown.to_owned();
    for (port, address) in addresses {
        for host in ["127.0.0.1", "localhost"] {
            text = text.replace(&format!("{host}:{port}"), address);
        }
    }
    text
}

fn in_test(word: &str) -> String {
    PLACES.iter().find(|(shown, _)| *shown == word).map_or_else(|| word.to_owned(), |(_, ours)| (*ours).to_owned())
}

/// The arguments of a shown command that talks to a server, made quick; nothing if it does not, or if another test runs it.
fn towards_a_server(shown: &[String], server: &Server) -> Option<Vec<String>> {
    let mut arguments: Vec<String> = shown.iter().skip(1).map(|word| in_test(&at_server(word, server))).collect();
    let has = |arguments: &[String], flag: &str| arguments.iter().any(|word| word == flag);
    match arguments.first()?.as_str() {
        "config" => {}
        "backup" => {}
        "delete" if has(&arguments, "--server") => {}
        "demo" => {
            if !has(&arguments, "--endpoint") {
                arguments.extend(["--endpoint".to_owned(), format!("http://{}", server.otlp_grpc)]);
            }
            if !has(&arguments, "--backfill") && !has(&arguments, "--duration") {
                arguments.extend(["--duration".to_owned(), "1s".to_owned()]);
            }
            for (flag, value) in [("--spans", "2000"), ("--duration", "1s")] {
                if let Some(at) = arguments.iter().position(|word| word == flag) {
                    value.clone_into(&mut arguments[at + 1]);
                }
            }
        }
        _ => return None,
    }
    Some(arguments)
}

/// Likewise for a folder.
fn on_a_folder(shown: &[String]) -> Option<Vec<String>> {
    let arguments: Vec<String> = shown.iter().skip(1).map(|word| in_test(word)).collect();
    let names_it = arguments.iter().any(|word| word == "--data");
    match arguments.first()?.as_str() {
        "verify" | "inspect" | "restore" | "compact" => Some(arguments),
        "sql" | "traceql" | "delete" if names_it => Some(arguments),
        _ => None,
    }
}

/// Runs a shell command with what the test has in place of what is shown.
fn shell(folder: &Path, command: &str) -> Output {
    Command::new("sh").arg("-ec").arg(command).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn shown_commands_do_what_the_documents_say() {
    let folder = tempfile::tempdir().unwrap();
    let run = |place: &str, arguments: &[String]| {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = tracehouse(folder.path(), &words).output().unwrap();
        assert!(output.status.success(), "{place}: {arguments:?}: {}", text(&output));
        text(&output)
    };
    let commands = readme::shown_commands();
    let settings = ["log.level=error", "compaction.enabled=false", "flush.age_max=1s"];
    let mut server = Server::start_with(&folder.path().join("data"), &settings, None).await.unwrap();
    let has_curl = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_ok();
    let requests = readme::shown_shell_commands("curl ");
    assert!(requests.len() > 3, "{requests:?}");
    for (place, request) in requests.iter().filter(|_| has_curl) {
        let request = at_server(request, &server).replacen("curl ", "curl -sS --fail-with-body ", 1);
        let output = shell(folder.path(), &request);
        // The trace that is asked for is the one that a request before has sent.
        assert!(output.status.success(), "{place}: {request}: {}", text(&output));
    }
    let mut count = 0;
    for (place, shown) in &commands {
        // A backup of what is in files by then.
        if shown[1] == "backup" {
            reqwest::get(format!("http://{}/flush", server.tempo)).await.unwrap().error_for_status().unwrap();
        }
        if let Some(arguments) = towards_a_server(shown, &server) {
            run(place, &arguments);
            count += 1;
        }
    }
    assert!(count >= 8, "{count} commands towards a server");
    server.stop().await;
    assert!(folder.path().join("backup").is_dir(), "no document shows a backup");

    let mut count = 0;
    for (place, shown) in &commands {
        let Some(arguments) = on_a_folder(shown) else { continue };
        if arguments[0] == "restore" {
            let data = arguments.iter().position(|word| word == "--data").unwrap();
            // The next step that the document names.
            run(place, &arguments);
            let verified = run(place, &["verify".to_owned(), "--data".to_owned(), arguments[data + 1].clone()]);
            assert!(verified.contains(" spans in ") && !verified.starts_with("0 spans"), "{verified}");
            let compacted = run(place, &["compact".to_owned(), "--data".to_owned(), arguments[data + 1].clone()]);
            assert!(compacted.contains("became "), "{compacted}");
        } else {
            run(place, &arguments);
        }
        count += 1;
    }
    assert!(count >= 5, "{count} commands on a folder");
}

/// The words in the first column of the table of commands.
#[test]
fn the_commands_in_the_table_of_the_operators_document_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("src/maintain/README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    let mut count = 0;
    for row in document.lines().filter(|line| line.starts_with("| `tracehouse ")) {
        let commands = row.split('|').nth(1).unwrap();
        let mut stem = String::new();
        for code in commands.split('`').skip(1).step_by(2) {
            // `tracehouse inspect files`, `columns` are two commands.
            let whole = if code.starts_with("tracehouse ") { code.to_owned() } else { format!("{stem} {code}") };
            stem = whole.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
            let words: Vec<String> = whole.split_whitespace().map(|word| word.replace(['[', ']'], "")).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).chain(["--data", "data"]).collect();
            assert_eq!(tracehouse::cli::check_arguments(&words), Ok(()), "{whole}");
            count += 1;
        }
    }
    assert!(count >= 5, "{count} commands");
}
