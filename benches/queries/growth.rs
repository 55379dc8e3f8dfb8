//! How queries grow with what is stored.

use crate::{
    Data,
    asks::{Ask, QUESTIONS},
    put::Target,
};

/// Questions of which the growth is shown.
const NAMES: &[&str] = &[
    "trace by id",
    "status = error",
    "rare string, scoped",
    "int attribute >= 500",
    "count() > 30",
    "rate by service",
    "status = error, limit 20",
    "values of a key with many",
];

/// Prints CPU by size, over everything and over the middle tenth of the time.
pub(crate) async fn report(sizes: &[Data], rounds: usize) {
    let questions = || QUESTIONS.iter().filter(|question| NAMES.contains(&question.name));
    let mut rows: Vec<String> =
        questions().flat_map(|question| [question.name.to_owned(), format!("{}, a tenth", question.name)]).collect();
    let mut titles = format!("\n{:<40}", "CPU ms");
    for data in sizes {
        titles.push_str(&format!(" {:>10} M", data.spans as f64 / 1e6));
        let target = Target::start(data).await;
        for (index, question) in questions().enumerate() {
            for (offset, range) in [data.seconds(), data.tenth()].into_iter().enumerate() {
                // A trace is asked for without a range.
                if offset == 1 && matches!(question.ask, Ask::Trace) {
                    rows[2 * index + 1].clear();
                    continue;
                }
                let cost = target.cost(question.ask, range, rounds).await;
                let row = &mut rows[2 * index + offset];
                *row = format!("{row:<40}{:>12.1}", cost.cpu_ms);
            }
        }
        println!("{} M spans: peak memory of the server {:.0} MiB", data.spans as f64 / 1e6, target.memory_mib());
    }
    println!("{titles}");
    rows.iter().filter(|row| !row.is_empty()).for_each(|row| println!("{row}"));
}
