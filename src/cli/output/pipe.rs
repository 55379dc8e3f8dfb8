//! A writer that remembers whether its reader went away.

use std::{
    io::{self, ErrorKind, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Standard output, or what stands for it.
#[derive(Debug)]
pub(super) struct Pipe<W> {
    out: W,
    is_closed: Arc<AtomicBool>,
}

impl<W: Write> Pipe<W> {
    /// The writer, and what is true from when nobody reads any more.
    pub(super) fn new(out: W) -> (Self, Arc<AtomicBool>) {
        let is_closed = Arc::new(AtomicBool::new(false));
        (Self { out, is_closed: Arc::clone(&is_closed) }, is_closed)
    }

    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
            self.is_closed.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

impl<W: Write> Write for Pipe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}
