//! Crash points: named places where a test stops the process, or fails an I/O call, to prove that recovery holds.
//!
//! Code that moves durable state calls [`hit`] between two steps, or [`io()`] where the step itself can fail. Normally
//! both are one relaxed atomic load. They do something in two cases:
//!
//! - The environment variable [`VARIABLE`] is `name` or `name:N`: the process aborts at the first or the Nth time it
//!   comes by, without unwinding, flushing or dropping anything. This is for tests that spawn the server.
//! - A test on the same thread holds an [`observe`] guard: its closure runs, and may copy the folder as a crash would
//!   leave it, or return the error that [`io()`] then reports.
//!
//! Names are `module.step.moment`, as in `wal.cut.after_carry`.
//!
//! Beside them stands [`synced`], by which code that syncs a file or a folder says so. A test that [`watch_syncs`] knows
//! what a loss of power at any moment would leave.

use std::{
    cell::RefCell,
    env, fmt, io,
    marker::PhantomData,
    path::Path,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

/// The environment variable that names the point at which to abort.
pub const VARIABLE: &str = "TRACEHOUSE_CRASHPOINT";

const UNREAD: u8 = 0;
const IDLE: u8 = 1;
const ARMED: u8 = 2;

/// Whether anything listens; decided at the first hit and by every [`observe`].
static STATE: AtomicU8 = AtomicU8::new(UNREAD);
static TARGET: OnceLock<Option<Target>> = OnceLock::new();

thread_local! {
    static OBSERVER: RefCell<Option<Rc<ObserverFn>>> = const { RefCell::new(None) };
}

type ObserverFn = dyn Fn(&'static str) -> io::Result<()>;

/// Passes the point `name`: aborts the process if it is the one that the environment names.
pub fn hit(name: &'static str) {
    if STATE.load(Ordering::Relaxed) != IDLE {
        // A place that only calls `hit` has no error to give; an observer that returns one has picked the wrong point.
        let outcome = pass(name);
        debug_assert!(outcome.is_ok(), "crash point {name} cannot fail; use one that is passed with io()");
    }
}

/// Passes the point `name` as [`hit`] does, and fails with the error that an observer returned, if one did.
pub fn io(name: &'static str) -> io::Result<()> {
    if STATE.load(Ordering::Relaxed) == IDLE { Ok(()) } else { pass(name) }
}

/// Runs `observer` at every point that this thread passes, until the guard is dropped.
///
/// At most one observer per thread is active: a second one takes the place of the first.
pub fn observe(observer: impl Fn(&'static str) -> io::Result<()> + 'static) -> Observer {
    OBSERVER.set(Some(Rc::new(observer)));
    STATE.store(ARMED, Ordering::Relaxed);
    Observer { thread_bound: PhantomData }
}

/// Keeps an observer in place; belongs to the thread that called [`observe`].
#[must_use = "the observer goes away with its guard"]
pub struct Observer {
    thread_bound: PhantomData<Rc<()>>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        OBSERVER.set(None);
    }
}

type WatcherFn = dyn Fn(&Path) + Send + Sync;

/// How many watchers there are; all syncs are made without one in production.
static WATCHER_COUNT: AtomicUsize = AtomicUsize::new(0);
static WATCHERS: RwLock<Vec<Arc<WatcherFn>>> = RwLock::new(Vec::new());

/// Says that the file or folder at `path` was synced just now, with success.
pub fn synced(path: &Path) {
    if WATCHER_COUNT.load(Ordering::Relaxed) > 0 {
        // Cloned out: a watcher takes its time, and others may come and go.
        let watchers = WATCHERS.read().clone();
        watchers.iter().for_each(|watcher| watcher(path));
    }
}

/// Runs `watcher` after every sync of this process, on the thread that made it, until the guard is dropped.
pub fn watch_syncs(watcher: impl Fn(&Path) + Send + Sync + 'static) -> SyncWatch {
    let watcher: Arc<WatcherFn> = Arc::new(watcher);
    WATCHERS.write().push(Arc::clone(&watcher));
    WATCHER_COUNT.fetch_add(1, Ordering::Relaxed);
    SyncWatch { watcher }
}

/// Keeps a watcher of syncs in place.
#[must_use = "the watcher goes away with its guard"]
pub struct SyncWatch {
    watcher: Arc<WatcherFn>,
}

impl fmt::Debug for SyncWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SyncWatch")
    }
}

impl Drop for SyncWatch {
    fn drop(&mut self) {
        WATCHERS.write().retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        WATCHER_COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Target {
    name: String,
    passes_left: AtomicU64,
}

impl Target {
    /// Reads `name` or `name:N`; an N that is not a number counts as 1.
    fn parse(text: &str) -> Option<Self> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let passes_left = AtomicU64::new(nth.parse().unwrap_or(1).max(1));
        (!name.is_empty()).then(|| Self { name: name.to_owned(), passes_left })
    }

    /// Counts a pass; true exactly once, at the Nth.
    fn is_due(&self, name: &str) -> bool {
        self.name == name && self.passes_left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

#[cold]
fn pass(name: &'static str) -> io::Result<()> {
    let target = TARGET.get_or_init(|| env::var(VARIABLE).ok().as_deref().and_then(Target::parse));
    if target.is_none() {
        // Loses against a concurrent `observe`, as it must.
        let _ = STATE.compare_exchange(UNREAD, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }
    if target.as_ref().is_some_and(|target| target.is_due(name)) {
        tracing::error!(name, "crash point reached, aborting");
        std::process::abort();
    }
    // Cloned out so that the observer may itself pass points.
    let observer = OBSERVER.with_borrow(Clone::clone);
    observer.map_or(Ok(()), |observer| observer(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_due_once_at_its_nth_pass() {
        let target = Target::parse("wal.cut.after_carry:3").unwrap();
        let due: Vec<bool> = (0..5).map(|_| target.is_due("wal.cut.after_carry")).collect();
        assert_eq!(due, [false, false, true, false, false]);
        assert!(!target.is_due("wal.cut"));
        assert!(Target::parse("x").unwrap().is_due("x"));
        assert!(Target::parse("").is_none());
    }

    #[test]
    fn an_observer_sees_its_thread_and_fails_its_calls() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&seen);
        let guard = observe(move |name| {
            log.borrow_mut().push(name);
            if name == "test.fails" { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        hit("test.passes");
        assert_eq!(io("test.fails").unwrap_err().kind(), io::ErrorKind::StorageFull);
        std::thread::spawn(|| hit("test.elsewhere")).join().unwrap();
        drop(guard);
        hit("test.later");
        assert_eq!(*seen.borrow(), ["test.passes", "test.fails"]);
    }
}
