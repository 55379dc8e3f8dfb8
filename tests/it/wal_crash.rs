//! The log at its crash points: killed there, or failed there by the disk.

use std::{
    cell::{Cell, RefCell},
    fs,
    io::{self, ErrorKind as Io},
    path::{Path, PathBuf},
    rc::Rc,
};

use tracehouse::{
    crashpoint::{self, Observer},
    error::{Error, ErrorKind},
    wal::{CRASHPOINTS, Log, NewRecord, RecordNumber, SyncMode, WalError, WalSettings},
};

use crate::wal::{append, contents, open, segment_files, settings, tenant};

const TENANTS: [&str; 2] = ["a", "b"];

/// What the caller of a log knows of each tenant: the last number that was acknowledged, and that was cut.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: [u64; 2],
    cut: [u64; 2],
}

/// A folder as a crash at a point has left it.
struct Wreck {
    point: &'static str,
    dir: PathBuf,
    known: Known,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Runs `work` on a folder and keeps what a crash at every point on the way would have left.
fn wrecks_of(scratch: &Path, work: impl FnOnce(&Path, &Rc<Cell<Known>>)) -> Vec<Wreck> {
    let dir = scratch.join("log");
    let known = Rc::new(Cell::new(Known::default()));
    let wrecks = Rc::new(RefCell::new(Vec::new()));
    let observer = {
        let (scratch, dir, known, wrecks) = (scratch.to_owned(), dir.clone(), Rc::clone(&known), Rc::clone(&wrecks));
        move |point: &'static str| {
            let mut wrecks = wrecks.borrow_mut();
            let wreck = Wreck { point, dir: scratch.join(wrecks.len().to_string()), known: known.get() };
            copy(&dir, &wreck.dir);
            wrecks.push(wreck);
            Ok(())
        }
    };
    let guard = crashpoint::observe(observer);
    work(&dir, &known);
    drop(guard);
    wrecks.take()
}

/// Appends and cuts, telling `known` what a caller would know.
fn live(dir: &Path, known: &Rc<Cell<Known>>) {
    let mut log = open(dir);
    let mut now = known.get();
    for round in 1..=12_usize {
        for (index, name) in TENANTS.iter().enumerate() {
            append(&mut log, name, now.acknowledged[index] + 1);
            now.acknowledged[index] += 1;
            known.set(now);
        }
        if round % 5 == 0 {
            for (index, name) in TENANTS.iter().enumerate() {
                now.cut[index] = now.acknowledged[index] - 1;
                known.set(now);
                log.cut(&tenant(name), RecordNumber::new(now.cut[index]), Vec::new).unwrap();
            }
        }
    }
    for (index, name) in TENANTS.iter().enumerate() {
        now.cut[index] = now.acknowledged[index];
        known.set(now);
        log.cut(&tenant(name), RecordNumber::new(now.cut[index]), Vec::new).unwrap();
    }
}

/// Every acknowledged record that was not cut is there once, in order, and no number is given again.
fn check(log: &Log, wreck: &Wreck) {
    let contents = contents(log);
    for (index, name) in TENANTS.iter().enumerate() {
        let numbers: Vec<u64> =
            contents.iter().filter(|(tenant, _)| tenant == name).map(|(_, number)| *number).collect();
        let (acknowledged, cut) = (wreck.known.acknowledged[index], wreck.known.cut[index]);
        let point = wreck.point;
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{point}: {name} has {numbers:?}");
        assert!((cut + 1..=acknowledged).all(|number| numbers.contains(&number)), "{point}: {name} has {numbers:?}");
        // The group that was under way may be there; nothing else may.
        let last = log.last_number(&tenant(name)).get();
        assert!((acknowledged..=acknowledged + 1).contains(&last), "{point}: {name} is at {last}");
        assert!(numbers.last().is_none_or(|number| *number <= last), "{point}");
    }
}

#[test]
fn a_crash_at_any_point_loses_and_repeats_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let wrecks = wrecks_of(scratch.path(), live);
    assert!(wrecks.len() > 50);
    for wreck in &wrecks {
        // Recovery itself is crashed as well.
        let again = wrecks_of(&wreck.dir, |dir, known| {
            known.set(wreck.known);
            copy_log(&wreck.dir, dir);
            check(&open(dir), wreck);
        });
        for second in &again {
            let mut log = open(&second.dir);
            check(&log, &Wreck { point: wreck.point, dir: second.dir.clone(), known: wreck.known });
            for name in TENANTS {
                let next = log.last_number(&tenant(name)).next();
                append(&mut log, name, next.get());
            }
        }
    }
    let seen: Vec<&str> = wrecks.iter().map(|wreck| wreck.point).collect();
    let never = ["wal.append.taken_back"];
    for point in CRASHPOINTS.iter().filter(|point| !never.contains(point)) {
        assert!(seen.contains(point), "{point} was never passed");
    }
}

/// Copies the files of a log, without the folders that a test made beside them.
fn copy_log(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Fails the calls at `point` while the guard lives.
pub(crate) fn failing(point: &'static str, kind: Io) -> Observer {
    crashpoint::observe(move |name| if name == point { Err(kind.into()) } else { Ok(()) })
}

pub(crate) fn try_append(log: &mut Log, name: &str) -> Result<u64, Error> {
    let tenant = tenant(name);
    let number = log.last_number(&tenant).next().get();
    let payload = format!("{name} {number}").repeat(10);
    let record =
        NewRecord { tenant: &tenant, received_unix_nano: number as i64, digests: &[], payload: payload.as_bytes() };
    Ok(log.append_group(&[record]).map(|appended| appended.numbers[0].get())?)
}

/// A log of which one record is acknowledged and in the active segment, or of none.
fn log_with(dir: &Path, records: u64) -> Log {
    let mut log = open(dir);
    (1..=records).for_each(|number| append(&mut log, "a", number));
    log
}

#[test]
fn a_failed_write_or_sync_stops_the_log_until_a_restart() {
    for records in [0, 1] {
        for point in ["wal.append.written", "wal.append.sync"] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = log_with(dir.path(), records);
            let guard = failing(point, Io::Other);
            let first = try_append(&mut log, "a").unwrap_err();
            drop(guard);
            let second = try_append(&mut log, "a").unwrap_err();
            for error in [&first, &second] {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.message().starts_with("the write-ahead log has stopped, and a restart is needed: "));
            }
            assert!(log.stats().poison.is_some());
            assert_eq!(log.last_number(&tenant("a")).get(), records);
            assert!(matches!(log.close(), Err(WalError::Poisoned { .. })));

            let mut log = open(dir.path());
            // The write went through, so the record that nobody was told of is there.
            assert_eq!(contents(&log).len() as u64, records + 1);
            append(&mut log, "a", records + 2);
        }
    }
}

#[test]
fn a_stopped_log_can_still_be_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log_with(dir.path(), 20);
    let guard = failing("wal.append.sync", Io::Other);
    try_append(&mut log, "a").unwrap_err();
    drop(guard);
    log.cut(&tenant("a"), RecordNumber::new(20), Vec::new).unwrap();
    assert_eq!(log.stats().segments, 0);
    assert!(try_append(&mut log, "a").is_err());
    drop(log);
    append(&mut open(dir.path()), "a", 21);
}

#[test]
fn a_full_disk_is_named_and_the_log_goes_on_when_there_is_room() {
    for records in [0, 1, 4] {
        for kind in [Io::StorageFull, Io::QuotaExceeded] {
            for point in ["wal.append.create", "wal.append.written"] {
                let dir = tempfile::tempdir().unwrap();
                let mut log = log_with(dir.path(), records);
                let before: Vec<Vec<u8>> =
                    segment_files(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
                let guard = failing(point, kind);
                // Some appends need no new segment, which is what the first point fails.
                let refused = try_append(&mut log, "a").err();
                drop(guard);
                if let Some(error) = &refused {
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                    assert!(error.message().starts_with("no space left on the disk of the write-ahead log in "));
                    let after: Vec<Vec<u8>> =
                        segment_files(dir.path()).iter().map(|file| fs::read(file).unwrap()).collect();
                    assert_eq!(after, before, "nothing of the group is left");
                }
                assert_eq!(log.stats().poison, None);
                let acknowledged = records + u64::from(refused.is_none());
                (1..=9).for_each(|more| append(&mut log, "a", acknowledged + more));
                drop(log);
                let log = open(dir.path());
                let numbers: Vec<u64> = contents(&log).iter().map(|(_, number)| *number).collect();
                assert_eq!(numbers, (1..=acknowledged + 9).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_full_disk_that_cannot_be_taken_back_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log_with(dir.path(), 1);
    let guard = crashpoint::observe(|name| match name {
        "wal.append.written" => Err(Io::StorageFull.into()),
        "wal.append.take_back" => Err(io::Error::other("still no luck")),
        _ => Ok(()),
    });
    let error = try_append(&mut log, "a").unwrap_err();
    drop(guard);
    assert!(error.message().contains("a restart is needed: cannot take back a write to"), "{error}");
    assert!(try_append(&mut log, "a").is_err());
    drop(log);
    assert_eq!(contents(&open(dir.path())).len(), 2, "whole, and never acknowledged");
}

#[test]
fn a_crash_after_a_full_disk_was_handled_is_repaired() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("log");
    let mut log = log_with(&dir, 1);
    let wreck = scratch.path().join("wreck");
    let guard = {
        let (dir, wreck) = (dir.clone(), wreck.clone());
        crashpoint::observe(move |name| {
            if name == "wal.append.taken_back" {
                copy(&dir, &wreck);
            }
            if name == "wal.append.written" { Err(Io::StorageFull.into()) } else { Ok(()) }
        })
    };
    try_append(&mut log, "a").unwrap_err();
    drop(guard);
    assert_eq!(contents(&open(&wreck)), [("a".into(), 1)]);
}

#[test]
fn a_cut_that_fails_is_finished_by_the_next_one_or_by_the_next_open() {
    for point in ["wal.head.write", "wal.cut.delete"] {
        for is_reopened in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = log_with(dir.path(), 20);
            let guard = failing(point, Io::StorageFull);
            let error = log.cut(&tenant("a"), RecordNumber::new(20), Vec::new).unwrap_err();
            drop(guard);
            assert_eq!(Error::from(error).kind(), ErrorKind::Unavailable);
            if is_reopened {
                drop(log);
                log = open(dir.path());
            }
            log.cut(&tenant("a"), RecordNumber::new(20), Vec::new).unwrap();
            assert_eq!(segment_files(dir.path()), [] as [PathBuf; 0], "{point}");
            append(&mut log, "a", 21);
        }
    }
}

#[test]
fn relaxed_mode_syncs_a_segment_before_it_begins_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let relaxed = WalSettings { sync: SyncMode::Relaxed, ..settings() };
    let (mut log, _) = Log::open(dir.path(), relaxed).unwrap();
    let guard = failing("wal.append.sync", Io::Other);
    let appended = (0..20).take_while(|_| try_append(&mut log, "a").is_ok()).count();
    drop(guard);
    assert!((2..20).contains(&appended), "appends in one segment do not sync, and the next segment does: {appended}");
    assert_eq!(segment_files(dir.path()).len(), 1);
    assert!(log.stats().poison.is_some());
}
