//! How far a demo run is: a bar on a terminal, a line now and then elsewhere, or nothing.

use std::{
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::sender::DemoReport;

/// Where progress shows; both visible forms go to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar that redraws itself, for terminals.
    Bar,
    /// A line every few seconds, for logs.
    Lines,
    /// Nothing.
    Silent,
}

const LINE_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Progress {
    form: Form,
    total: Option<u64>,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines { last: Mutex<Instant> },
    Silent,
}

impl Progress {
    /// `total` is the number of spans of the run, where that is known.
    pub(super) fn new(style: ProgressStyle, total: Option<u64>) -> Self {
        let form = match style {
            ProgressStyle::Bar => Form::Bar(bar(total)),
            ProgressStyle::Lines => Form::Lines { last: Mutex::new(Instant::now()) },
            ProgressStyle::Silent => Form::Silent,
        };
        Self { form, total }
    }

    pub(super) fn show(&self, report: &DemoReport) {
        match &self.form {
            Form::Bar(bar) => {
                bar.set_position(report.spans_accepted + report.spans_rejected);
                bar.set_message(troubles(report));
            }
            Form::Lines { last } => {
                let mut last = last.lock();
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    self.write_line(report);
                }
            }
            Form::Silent => {}
        }
    }

    pub(super) fn finish(&self, report: &DemoReport) {
        match &self.form {
            Form::Bar(bar) => bar.finish_and_clear(),
            Form::Lines { .. } => self.write_line(report),
            Form::Silent => {}
        }
    }

    fn write_line(&self, report: &DemoReport) {
        let of_total = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        let line = format!("{}{of_total} spans sent{}\n", report.spans_accepted, troubles(report));
        // A closed standard error is no reason to stop sending.
        let _ = io::stderr().write_all(line.as_bytes());
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{bar:40} {human_pos}/{human_len} spans, {per_sec}, {eta} left{msg}",
        None => "{spinner} {human_pos} spans, {per_sec}, {elapsed}{msg}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = BarStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn troubles(report: &DemoReport) -> String {
    let mut text = String::new();
    for (count, what) in [(report.spans_rejected, "rejected"), (report.retries, "retries")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}
