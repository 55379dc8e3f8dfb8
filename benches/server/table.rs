//! One table of figures: what was measured, beside what the reference takes for the same work.

use std::time::Duration;

/// Prints the title of a group of rows.
pub(crate) fn title(text: &str) {
    println!("\n{text}");
}

/// Prints the names of the columns of [`ingest_row`].
pub(crate) fn ingest_header() {
    println!(
        "  {:<34} {:>12} {:>9} {:>12} {:>12} {:>14}",
        "", "CPU s / 1 M", "share", "bytes in", "bytes out", "spans/s"
    );
}

/// A stage of the write path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Stage {
    /// CPU seconds per million spans.
    pub(crate) fn per_million(&self, spans: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / spans as f64
    }

    /// Prints the stage as a row; bytes are per span, the share is of `total` CPU seconds per million spans.
    pub(crate) fn print(&self, spans: u64, total: f64) {
        let per_million = self.per_million(spans);
        let bytes = |bytes: u64| bytes as f64 / spans as f64;
        println!(
            "  {:<34} {:>12.2} {:>8.0}% {:>12.1} {:>12.1} {:>14.0}",
            self.name,
            per_million,
            100.0 * per_million / total,
            bytes(self.bytes_in),
            bytes(self.bytes_out),
            spans as f64 / self.wall.as_secs_f64()
        );
    }
}

/// Prints a figure with its unit, and how many times the reference's it is.
pub(crate) fn figure(name: &str, value: f64, unit: &str, reference: Option<f64>) {
    let beside = reference.map(|reference| {
        let (times, word) =
            if value <= reference { (reference / value, "below") } else { (value / reference, "above") };
        format!("reference {reference:>9.1}, {times:>6.1} times {word}")
    });
    println!("  {name:<44} {value:>10.2} {unit:<18} {}", beside.unwrap_or_default());
}
