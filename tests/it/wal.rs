//! The write-ahead log gives back what was appended: across restarts, cuts and damage.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*};
use tracehouse::{
    error::{Error, ErrorKind},
    model::tenant::TenantId,
    wal::{CarriedDigest, Cut, Log, NewRecord, Record, RecordNumber, SyncMode, WalError, WalSettings},
};

pub(crate) fn settings() -> WalSettings {
    WalSettings { segment_bytes_max: 600, bytes_max: 1 << 30, record_bytes_max: 1 << 20, sync: SyncMode::Always }
}

pub(crate) fn open(dir: &Path) -> Log {
    Log::open(dir, settings()).unwrap().0
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

/// Appends one record of tenant `name`; its number must be `number`.
pub(crate) fn append(log: &mut Log, name: &str, number: u64) {
    let payload = format!("{name} {number}").repeat(10);
    let tenant = tenant(name);
    let record =
        NewRecord { tenant: &tenant, received_unix_nano: number as i64, digests: &[], payload: payload.as_bytes() };
    let appended = log.append_group(&[record]).unwrap();
    assert_eq!(appended.numbers, [RecordNumber::new(number)]);
}

/// The tenants and numbers in a log, checked to hold what [`append`] wrote.
pub(crate) fn contents(log: &Log) -> Vec<(String, u64)> {
    let content = |record: Result<Record, WalError>| {
        let record = record.unwrap();
        let (name, number) = (record.tenant.to_string(), record.number.get());
        assert_eq!(record.payload, format!("{name} {number}").repeat(10).as_bytes());
        (name, number)
    };
    log.replay().map(content).collect()
}

pub(crate) fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    files
}

fn cut(log: &mut Log, name: &str, through: u64) -> Cut {
    log.cut(&tenant(name), RecordNumber::new(through), Vec::new).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn records_come_back_in_order_after_a_restart_and_keep_their_log_id() {
    let dir = folder();
    let path = dir.path().join("new/wal");
    let (mut log, recovery) = Log::open(&path, settings()).unwrap();
    assert!(recovery.created);
    let id = log.id();
    let (a, b) = (tenant("a"), tenant("b"));
    let record = |tenant, payload| NewRecord { tenant, received_unix_nano: 5, digests: &[1, 2], payload };
    let appended = log.append_group(&[record(&a, b"x"), record(&b, b""), record(&a, b"y")]).unwrap();
    assert_eq!(appended.numbers, [1, 1, 2].map(RecordNumber::new));
    drop(log);

    let (log, recovery) = Log::open(&path, settings()).unwrap();
    assert_eq!((log.id(), recovery.created, recovery.records, recovery.torn_tail), (id, false, 3, None));
    let records: Vec<Record> = log.replay().map(Result::unwrap).collect();
    let payloads: Vec<&[u8]> = records.iter().map(|record| &record.payload[..]).collect();
    assert_eq!(payloads, [&b"x"[..], b"", b"y"]);
    assert_eq!((records[1].received_unix_nano, &records[1].digests), (5, &vec![1, 2]));
    assert_eq!((log.last_number(&a).get(), log.last_number(&b).get()), (2, 1));
}

#[test]
fn a_log_that_is_cut_to_its_end_is_empty_and_its_numbers_go_on() {
    let dir = folder();
    let mut log = open(dir.path());
    (1..=20).for_each(|number| append(&mut log, "a", number));
    append(&mut log, "b", 1);
    cut(&mut log, "a", 20);
    cut(&mut log, "b", 1);
    let stats = log.stats();
    assert_eq!((stats.segments, stats.bytes, stats.oldest_received_unix_nano), (0, 0, None));
    assert_eq!(segment_files(dir.path()), [] as [PathBuf; 0]);
    drop(log);

    let mut log = open(dir.path());
    append(&mut log, "a", 21);
    append(&mut log, "b", 2);
    append(&mut log, "c", 1);
    assert_eq!(contents(&log), [("a".into(), 21), ("b".into(), 2), ("c".into(), 1)]);
}

#[test]
fn a_segment_goes_when_every_record_in_it_and_before_it_is_cut() {
    let dir = folder();
    let mut log = open(dir.path());
    append(&mut log, "slow", 1);
    (1..=20).for_each(|number| append(&mut log, "a", number));
    let segments = log.stats().segments;
    assert_eq!(cut(&mut log, "a", 20), Cut::default(), "the first segment holds a record of another tenant");
    let freed = cut(&mut log, "slow", 1);
    assert_eq!((freed.segments, log.stats().bytes), (segments, 0));
}

#[test]
fn numbers_skip_what_a_table_holds_of_records_that_the_log_forgot() {
    let dir = folder();
    let mut log = open(dir.path());
    append(&mut log, "a", 1);
    cut(&mut log, "a", 7);
    append(&mut log, "a", 8);
}

#[test]
fn carried_digests_outlive_their_records() {
    let dir = folder();
    let mut log = open(dir.path());
    append(&mut log, "a", 1);
    let digests = vec![
        CarriedDigest { tenant: tenant("a"), digest: u128::MAX - 1, received_unix_nano: 3 },
        CarriedDigest { tenant: tenant("never-logged"), digest: 0, received_unix_nano: -3 },
    ];
    log.cut(&tenant("a"), RecordNumber::new(1), || digests.clone()).unwrap();
    drop(log);
    let (mut log, recovery) = Log::open(dir.path(), settings()).unwrap();
    assert_eq!(recovery.digests, digests);
    let not_asked = || panic!("nothing is deleted");
    log.cut(&tenant("a"), RecordNumber::new(1), not_asked).unwrap();
}

#[test]
fn a_locked_folder_is_refused_and_named() {
    let dir = folder();
    let log = open(dir.path());
    for error in [Log::open(dir.path(), settings()).unwrap_err(), Log::read(dir.path()).unwrap_err()] {
        let error = Error::from(error);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("in use by another process"), "{error}");
        assert!(error.message().contains(dir.path().to_str().unwrap()), "{error}");
    }
    drop(log);
    let (first, second) = (Log::read(dir.path()).unwrap(), Log::read(dir.path()).unwrap());
    assert!(matches!(Log::open(dir.path(), settings()), Err(WalError::Locked { .. })));
    drop((first, second));
    open(dir.path());
}

#[test]
fn reading_gives_the_same_records_and_changes_nothing() {
    let dir = folder();
    let mut log = open(dir.path());
    (1..=9).for_each(|number| append(&mut log, "a", number));
    let expected = contents(&log);
    drop(log);
    let last = segment_files(dir.path()).pop().unwrap();
    OpenOptions::new().append(true).open(&last).unwrap().set_len(fs::metadata(&last).unwrap().len() - 1).unwrap();

    let before = snapshot(dir.path());
    let (reader, recovery) = Log::read(dir.path()).unwrap();
    let numbers: Vec<u64> = reader.replay().map(|record| record.unwrap().number.get()).collect();
    assert_eq!(numbers, (1..expected.len() as u64).collect::<Vec<_>>());
    assert!(recovery.torn_tail.is_some());
    drop(reader);
    assert_eq!(snapshot(dir.path()), before);

    let elsewhere = folder();
    assert!(matches!(Log::read(elsewhere.path()), Err(WalError::NotALog { .. })));
    assert!(matches!(Log::read(&elsewhere.path().join("none")), Err(WalError::NotALog { .. })));
    assert_eq!(snapshot(elsewhere.path()), BTreeMap::new());
}

fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn newer_formats_are_refused_by_head_and_by_segment() {
    let dir = folder();
    let mut log = open(dir.path());
    append(&mut log, "a", 1);
    drop(log);
    for path in [dir.path().join("head"), segment_files(dir.path()).remove(0)] {
        let intact = fs::read(&path).unwrap();
        let mut newer = intact.clone();
        newer[8] = 2;
        fs::write(&path, newer).unwrap();
        let error = Error::from(Log::open(dir.path(), settings()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("format version 2, and this build reads versions up to 1"), "{error}");
        fs::write(&path, intact).unwrap();
    }
    assert_eq!(contents(&open(dir.path())), [("a".into(), 1)]);
}

#[test]
fn a_missing_file_is_an_error() {
    let check = |remove: fn(&Path) -> PathBuf| {
        let dir = folder();
        let mut log = open(dir.path());
        (1..=20).for_each(|number| append(&mut log, "a", number));
        drop(log);
        fs::remove_file(remove(dir.path())).unwrap();
        let error = Error::from(Log::open(dir.path(), settings()).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    };
    check(|dir| dir.join("head"));
    check(|dir| segment_files(dir).remove(0));
    check(|dir| segment_files(dir).remove(1));
}

#[test]
fn limits_are_named_with_the_value_and_leave_the_log_usable() {
    let dir = folder();
    let small = WalSettings { record_bytes_max: 300, bytes_max: 1000, ..settings() };
    let (mut log, _) = Log::open(dir.path(), small).unwrap();
    let a = tenant("a");
    let big = NewRecord { tenant: &a, received_unix_nano: 0, digests: &[9], payload: &[0; 400] };
    let error = Error::from(log.append_group(&[big]).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let expected = "a record of 465 bytes is more than the write-ahead log's record_bytes_max of 300";
    assert_eq!(error.message(), expected);

    let mut number = 0;
    let error = loop {
        let record = NewRecord { payload: &[0; 100], ..big };
        match log.append_group(&[record]) {
            Ok(_) => number += 1,
            Err(error) => break Error::from(error),
        }
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("exceed its bytes_max of 1000"), "{error}");
    assert!(log.stats().bytes <= 1000 && log.stats().poison.is_none());
    cut(&mut log, "a", number);
    append(&mut log, "a", number + 1);

    let contradiction = WalSettings { record_bytes_max: 1000, bytes_max: 1000, ..settings() };
    let error = Log::open(folder().path(), contradiction).unwrap_err();
    assert!(matches!(error, WalError::Settings { .. }), "{error}");
}

#[test]
fn a_hundred_thousand_tiny_records_come_back() {
    let dir = folder();
    let large = WalSettings { segment_bytes_max: 1 << 20, ..settings() };
    let (mut log, _) = Log::open(dir.path(), large.clone()).unwrap();
    let tenants = [tenant("a"), tenant("b"), tenant("c")];
    for group in 0..100_u32 {
        let payloads: Vec<[u8; 4]> = (0..1000).map(|index| (group * 1000 + index).to_le_bytes()).collect();
        let records: Vec<NewRecord<'_>> = payloads
            .iter()
            .zip(tenants.iter().cycle())
            .map(|(payload, tenant)| NewRecord { tenant, received_unix_nano: 0, digests: &[], payload })
            .collect();
        log.append_group(&records).unwrap();
    }
    drop(log);
    let (log, recovery) = Log::open(dir.path(), large).unwrap();
    assert_eq!(recovery.records, 100_000);
    let mut last: BTreeMap<TenantId, RecordNumber> = BTreeMap::new();
    for (index, record) in log.replay().enumerate() {
        let record = record.unwrap();
        let expected = last.entry(record.tenant).or_default();
        *expected = expected.next();
        assert_eq!(record.number, *expected);
        assert_eq!(record.payload[..], (index as u32).to_le_bytes());
    }
    assert_eq!(last.values().map(|number| number.get()).sum::<u64>(), 100_000);
}

#[test]
fn relaxed_mode_shows_and_syncs_on_close() {
    let dir = folder();
    let relaxed = WalSettings { sync: SyncMode::Relaxed, ..settings() };
    let (mut log, _) = Log::open(dir.path(), relaxed).unwrap();
    (1..=20).for_each(|number| append(&mut log, "a", number));
    assert_eq!(log.stats().sync, SyncMode::Relaxed);
    log.close().unwrap();
    assert_eq!(contents(&open(dir.path())).len(), 20);
}

#[test]
fn a_replay_goes_on_while_its_records_are_cut_and_others_appended() {
    let dir = folder();
    let mut log = open(dir.path());
    (1..=20).for_each(|number| append(&mut log, "a", number));
    let mut replay = log.replay();
    for number in 1..=20 {
        let record = replay.next().unwrap().unwrap();
        assert_eq!(record.number.get(), number);
        cut(&mut log, "a", number);
        append(&mut log, "a", 20 + number);
    }
    assert!(replay.next().is_none(), "records appended later are not part of it");

    let mut replay = log.replay();
    cut(&mut log, "a", 40);
    assert!(replay.next().is_none(), "deleted segments are skipped");
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u8, Vec<u8>, Vec<u128>)>),
    Reopen,
    Cut { tenant: u8, percent: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let record = (0..3_u8, vec(any::<u8>(), 0..300), vec(any::<u128>(), 0..3));
    prop_oneof![
        6 => vec(record, 0..5).prop_map(Step::Append),
        1 => Just(Step::Reopen),
        2 => (0..3_u8, 0..=100_u64).prop_map(|(tenant, percent)| Step::Cut { tenant, percent }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn replay_gives_what_was_appended_and_not_cut(steps in vec(any_step(), 1..40)) {
        let dir = folder();
        let mut log = open(dir.path());
        let tenants = ["a", "b", "c"].map(tenant);
        let mut model: Vec<Record> = Vec::new();
        let mut last = [0_u64; 3];
        let mut cuts = [0_u64; 3];
        let mut clock = 0;
        for step in steps {
            match step {
                Step::Append(group) => {
                    let mut records = Vec::new();
                    for (index, payload, digests) in &group {
                        clock += 1;
                        let tenant = &tenants[*index as usize];
                        records.push(NewRecord { tenant, received_unix_nano: clock, digests, payload });
                    }
                    let appended = log.append_group(&records).unwrap();
                    for ((record, (index, ..)), number) in records.iter().zip(&group).zip(appended.numbers) {
                        last[*index as usize] += 1;
                        prop_assert_eq!(number.get(), last[*index as usize]);
                        model.push(Record {
                            tenant: record.tenant.clone(),
                            number,
                            received_unix_nano: record.received_unix_nano,
                            digests: record.digests.to_vec(),
                            payload: record.payload.to_vec().into(),
                        });
                    }
                }
                Step::Reopen => {
                    drop(log);
                    log = open(dir.path());
                }
                Step::Cut { tenant, percent } => {
                    let index = tenant as usize;
                    cuts[index] = cuts[index].max(last[index] * percent / 100);
                    cut(&mut log, tenants[index].as_str(), cuts[index]);
                }
            }
            let replayed: Vec<Record> = log.replay().map(Result::unwrap).collect();
            let kept = model.len() - replayed.len();
            prop_assert_eq!(&replayed[..], &model[kept..]);
            let index_of = |record: &Record| tenants.iter().position(|tenant| *tenant == record.tenant).unwrap();
            prop_assert!(model[..kept].iter().all(|record| record.number.get() <= cuts[index_of(record)]));
            prop_assert_eq!(log.stats().segments, segment_files(dir.path()).len());
        }
    }
}
