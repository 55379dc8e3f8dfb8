//! Clocks and gauges: CPU time of a process and of a thread, bytes of a folder.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// The fields of `/proc/<pid>/stat` behind the name, beginning with the state.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect()
}

/// User and system time of a process so far, to 10 ms.
pub(crate) fn process_cpu(pid: u32) -> Duration {
    let fields = stat(pid);
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// User and system time, to 10 ms, of the children that this process has waited for.
pub(crate) fn children_cpu() -> Duration {
    let fields = stat(std::process::id());
    let ticks: u64 = fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Whether a child process has ended, and nobody has waited for it yet.
pub(crate) fn has_ended(pid: u32) -> bool {
    stat(pid)[0] == "Z"
}

/// Time that this thread has run so far.
fn thread_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// A sum of CPU and wall time over pieces of work of this thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timer {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
}

impl Timer {
    pub(crate) fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (cpu, wall) = (thread_cpu(), Instant::now());
        let value = work();
        self.wall += wall.elapsed();
        self.cpu += thread_cpu() - cpu;
        value
    }
}

/// Bytes of the files with this extension in a folder and below.
pub(crate) fn folder_bytes(folder: &Path, extension: &str) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.path() {
            path if path.is_dir() => folder_bytes(&path, extension),
            path if path.extension().is_some_and(|found| found == extension) => entry.metadata().unwrap().len(),
            _ => 0,
        })
        .sum()
}
