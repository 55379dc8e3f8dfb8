//! How far a demo run is: a bar on a terminal, a line now and then elsewhere, or nothing.

use std::{
    fmt,
    io::{self, Write},
    time::Duration,
};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle as BarStyle};
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
            ProgressStyle::Bar => Form::Bar(bar(total, ProgressDrawTarget::stderr())),
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
        // A closed standard error is no reason to stop sending.
        let _ = io::stderr().write_all(self.line(report).as_bytes());
    }

    fn line(&self, report: &DemoReport) -> String {
        let of_total = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        format!("{}{of_total} spans sent{}\n", report.spans_accepted, troubles(report))
    }
}

fn bar(total: Option<u64>, target: ProgressDrawTarget) -> ProgressBar {
    let template = match total {
        Some(_) => "{bar:40} {human_pos}/{human_len} spans, {rate}, {eta} left{msg}",
        None => "{spinner} {human_pos} spans, {rate}, {elapsed}{msg}",
    };
    let bar = ProgressBar::with_draw_target(total, target);
    if let Ok(style) = BarStyle::with_template(template) {
        bar.set_style(style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // What cannot be drawn is no reason to stop sending.
            let _ = write!(out, "{} spans/s", HumanCount(state.per_sec() as u64));
        }));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// Keeps what was drawn.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            120
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn report(spans_accepted: u64, spans_rejected: u64, retries: u64) -> DemoReport {
        DemoReport { spans_accepted, spans_rejected, retries, ..DemoReport::default() }
    }

    #[test]
    fn lines_tell_how_far_the_run_is_and_what_went_wrong() {
        let lines = Progress::new(ProgressStyle::Lines, Some(3_000));
        assert_eq!(lines.line(&report(1_000, 0, 0)), "1000 of 3000 spans sent\n");
        assert_eq!(lines.line(&report(1_000, 7, 2)), "1000 of 3000 spans sent, 7 rejected, 2 retries\n");
        let endless = Progress::new(ProgressStyle::Lines, None);
        assert_eq!(endless.line(&report(5, 0, 0)), "5 spans sent\n");
    }

    #[test]
    fn the_bar_tells_counts_and_a_rate_in_whole_spans() {
        for (total, expected) in [(Some(300_000), "123,463/300,000 spans, "), (None, " 123,463 spans, ")] {
            let terminal = Paper::default();
            let bar = bar(total, ProgressDrawTarget::term_like(Box::new(terminal.clone())));
            let progress = Progress { form: Form::Bar(bar.clone()), total };
            progress.show(&report(123_456, 7, 1));
            bar.tick();
            let drawn = terminal.0.lock().trim_end().to_owned();
            assert!(drawn.contains(expected), "{drawn}");
            assert!(drawn.ends_with(", 7 rejected, 1 retries"), "{drawn}");
            let rate = drawn.split(expected).nth(1).unwrap().split(" spans/s").next().unwrap();
            assert!(rate.chars().all(|c| c.is_ascii_digit() || c == ','), "{drawn}");
            progress.finish(&report(123_456, 7, 1));
            assert_eq!(terminal.0.lock().trim(), "", "the bar leaves nothing behind");
        }
    }
}
