//! What is torn is cut, what is damaged is refused, and no byte ever comes back wrong.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*, sample::Index};
use tracehouse::{
    error::{Error, ErrorKind},
    wal::{Log, NewRecord, WalError},
};

use crate::wal::{append, contents, open, segment_files, settings, tenant};

/// Where a record lies on disk. Records are numbered from 1 in the order of this list.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    start: u64,
    end: u64,
    group: usize,
}

/// Writes a log of one tenant, whose groups have as many records as given.
fn write_log(dir: &Path, group_sizes: &[usize]) -> Vec<Place> {
    let mut log = open(dir);
    let tenant = tenant("a");
    let mut places: Vec<Place> = Vec::new();
    for (group, size) in group_sizes.iter().enumerate() {
        let first = places.len() as u64 + 1;
        let payload = |number| format!("a {number}").repeat(10).into_bytes();
        let payloads: Vec<Vec<u8>> = (first..).take(*size).map(payload).collect();
        let records: Vec<NewRecord<'_>> = payloads
            .iter()
            .map(|payload| NewRecord { tenant: &tenant, received_unix_nano: 0, digests: &[], payload })
            .collect();
        log.append_group(&records).unwrap();
        let file = segment_files(dir).pop().unwrap();
        let mut start = fs::metadata(&file).unwrap().len() - payloads.iter().map(|p| frame_bytes(p)).sum::<u64>();
        for payload in &payloads {
            let end = start + frame_bytes(payload);
            places.push(Place { file: file.clone(), start, end, group });
            start = end;
        }
    }
    places
}

fn frame_bytes(payload: &[u8]) -> u64 {
    (48 + "a".len() + payload.len()) as u64
}

fn flip(file: &Path, byte: u64, bit: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[byte as usize] ^= 1 << bit;
    fs::write(file, bytes).unwrap();
}

fn expect_numbers(log: &Log, count: usize) {
    let expected: Vec<(String, u64)> = (1..=count as u64).map(|number| ("a".into(), number)).collect();
    assert_eq!(contents(log), expected);
}

/// Opens a log that is intact up to `count` records and torn behind them, and writes to it.
fn expect_repaired(dir: &Path, count: usize, is_torn: bool) {
    let (mut log, recovery) = Log::open(dir, settings()).unwrap();
    assert_eq!(recovery.torn_tail.is_some(), is_torn, "{recovery:?}");
    expect_numbers(&log, count);
    append(&mut log, "a", count as u64 + 1);
    drop(log);
    let (log, recovery) = Log::open(dir, settings()).unwrap();
    assert_eq!(recovery.torn_tail, None);
    expect_numbers(&log, count + 1);
}

/// Opening fails, twice with the same words, and changes nothing.
fn expect_refused(dir: &Path) {
    let sizes =
        |dir: &Path| -> Vec<u64> { segment_files(dir).iter().map(|file| fs::metadata(file).unwrap().len()).collect() };
    let before = sizes(dir);
    let first = Error::from(Log::open(dir, settings()).unwrap_err());
    let second = Error::from(Log::open(dir, settings()).unwrap_err());
    assert_eq!((first.kind(), first.message()), (ErrorKind::Corrupt, second.message()));
    assert!(first.message().contains("acknowledged records may be lost, so nothing was changed"), "{first}");
    assert_eq!(sizes(dir), before);
    assert!(Log::read(dir).is_err());
}

fn any_groups() -> impl Strategy<Value = Vec<usize>> {
    vec(1..5_usize, 1..10)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_bit_is_cut_in_the_last_group_and_refused_before_it(
        groups in any_groups(), at in any::<Index>(), bit in 0..8_u8,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let places = write_log(dir.path(), &groups);
        let with_length = |file: PathBuf| (file.clone(), fs::metadata(file).unwrap().len());
        let files: Vec<(PathBuf, u64)> = segment_files(dir.path()).into_iter().map(with_length).collect();
        let mut byte = at.index(files.iter().map(|(_, length)| *length as usize).sum()) as u64;
        let mut file = 0;
        while byte >= files[file].1 {
            byte -= files[file].1;
            file += 1;
        }
        flip(&files[file].0, byte, bit);

        let file = &files[file].0;
        if fs::read(file).unwrap()[8..12] > [1, 0, 0, 0][..] {
            let is_refused = matches!(Log::open(dir.path(), settings()), Err(WalError::Version { .. }));
            prop_assert!(is_refused);
            return Ok(());
        }
        // The header belongs to the first group of its file.
        let hit = places.iter().find(|place| place.file == *file && byte < place.end).unwrap();
        if hit.group + 1 == groups.len() {
            let intact = places.iter().take_while(|place| place.file != *file || place.end <= byte).count();
            expect_repaired(dir.path(), intact, true);
        } else {
            expect_refused(dir.path());
        }
    }

    #[test]
    fn a_last_file_of_any_length_gives_the_records_that_are_whole_in_it(groups in any_groups(), at in any::<Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let places = write_log(dir.path(), &groups);
        let last = segment_files(dir.path()).pop().unwrap();
        let length = fs::metadata(&last).unwrap().len();
        let cut = at.index(length as usize + 1) as u64;
        OpenOptions::new().write(true).open(&last).unwrap().set_len(cut).unwrap();
        let whole = places.iter().filter(|place| place.file != last || place.end <= cut).count();
        let is_at_boundary = places.iter().any(|place| place.file == last && place.end == cut);
        expect_repaired(dir.path(), whole, !is_at_boundary);
    }

    #[test]
    fn an_earlier_file_of_another_length_is_refused(groups in vec(3..5_usize, 4..8), at in any::<Index>()) {
        let dir = tempfile::tempdir().unwrap();
        write_log(dir.path(), &groups);
        let files = segment_files(dir.path());
        let file = &files[at.index(files.len() - 1)];
        let length = fs::metadata(file).unwrap().len();
        let cut = at.index(length as usize) as u64;
        OpenOptions::new().write(true).open(file).unwrap().set_len(cut).unwrap();
        expect_refused(dir.path());
    }

    #[test]
    fn a_group_of_which_any_blocks_never_reached_the_disk_is_cut_at_the_first(
        groups in any_groups(), zeroed in vec(any::<bool>(), 80),
    ) {
        const BLOCK_BYTES: u64 = 16;
        let dir = tempfile::tempdir().unwrap();
        let places = write_log(dir.path(), &groups);
        let last = places.last().unwrap().clone();
        let group: Vec<&Place> = places.iter().filter(|place| place.group == last.group).collect();
        let start = group[0].start;
        let mut bytes = fs::read(&last.file).unwrap();
        let intact = bytes.clone();
        for (index, _) in zeroed.iter().enumerate().filter(|(_, is_zeroed)| **is_zeroed) {
            let from = (start + index as u64 * BLOCK_BYTES).min(last.end);
            let to = (from + BLOCK_BYTES).min(last.end);
            bytes[from as usize..to as usize].fill(0);
        }
        fs::write(&last.file, &bytes).unwrap();
        let is_whole = |place: &Place| {
            let range = place.start as usize..place.end as usize;
            place.group != last.group || bytes[range.clone()] == intact[range]
        };
        let whole = places.iter().take_while(|place| is_whole(place)).count();
        expect_repaired(dir.path(), whole, whole < places.len());
    }

    #[test]
    fn anything_behind_the_last_group_is_cut(groups in any_groups(), garbage in vec(any::<u8>(), 1..500)) {
        let dir = tempfile::tempdir().unwrap();
        let places = write_log(dir.path(), &groups);
        let last = segment_files(dir.path()).pop().unwrap();
        let mut bytes = fs::read(&last).unwrap();
        bytes.extend(&garbage);
        fs::write(&last, bytes).unwrap();
        expect_repaired(dir.path(), places.len(), true);
    }
}

#[test]
fn a_frame_of_another_log_is_no_proof_and_no_record() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let places = write_log(dir.path(), &[1, 1]);
    write_log(other.path(), &[1, 1, 1]);
    let (mine, theirs) = (segment_files(dir.path()).remove(0), segment_files(other.path()).remove(0));
    let mut bytes = fs::read(&mine).unwrap();
    bytes.extend(&fs::read(theirs).unwrap()[bytes.len()..]);
    fs::write(&mine, bytes).unwrap();
    expect_repaired(dir.path(), places.len(), true);
}

#[test]
fn a_damaged_head_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path(), &[1]);
    flip(&dir.path().join("head"), 30, 0);
    expect_refused(dir.path());
}
