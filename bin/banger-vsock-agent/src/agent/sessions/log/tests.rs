use proptest::prelude::*;

use super::*;

/// A folder in memory, where there is such: the disk would take most of the time.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// All that a reader finds from a position on.
fn read(log: &Log, from: u64, most: usize) -> Vec<Found> {
    let mut cursor = Cursor::new(from);
    let mut all = vec![];
    loop {
        match cursor.next(log, most).unwrap() {
            Found::End => return all,
            found => all.push(found),
        }
    }
}

/// Checks what a reader found against all that was written: every byte is there or in a gap.
fn check(found: &[Found], from: u64, written: &[(Stream, u8)]) -> (u64, u64) {
    let (mut at, mut lost) = (from, 0);
    for one in found {
        match one {
            Found::Record(stream, position, bytes) => {
                assert_eq!(*position, at);
                for byte in bytes {
                    assert_eq!(written[usize::try_from(at).unwrap()], (*stream, *byte));
                    at += 1;
                }
            }
            Found::Gap { from, to } => {
                assert_eq!(*from, at);
                assert!(to > from);
                lost += to - from;
                at = *to;
            }
            Found::End => {}
        }
    }
    (at, lost)
}

fn on_disk(folder: &Path) -> u64 {
    let sizes = fs::read_dir(folder).unwrap();
    sizes
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_byte_is_there_or_told_missing(
        pieces in prop::collection::vec((any::<bool>(), 1_usize..400), 1..200),
        capacity in 700_u64..20_000,
        start in 0_usize..30_000,
        most in 1_usize..500,
        reopen in 0_usize..200,
        cut in 0_u64..40,
    ) {
        let folder = folder();
        let mut log = Log::open(folder.path(), capacity).unwrap();
        let mut written: Vec<(Stream, u8)> = vec![];
        for (number, (is_out, length)) in pieces.iter().enumerate() {
            let stream = if *is_out { Stream::Stdout } else { Stream::Stderr };
            let bytes: Vec<u8> = (0..*length).map(|i| (i + 7 * number) as u8).collect();
            log.append(stream, &bytes);
            written.extend(bytes.iter().map(|byte| (stream, *byte)));
            prop_assert_eq!(log.extent(0).end, written.len() as u64);
            prop_assert!(on_disk(folder.path()) <= capacity.max(1 + (HEAD + 400) as u64));
            if number == reopen {
                log = Log::open(folder.path(), capacity).unwrap();
                prop_assert_eq!(log.extent(0).end, written.len() as u64);
            }
        }
        let extent = log.extent(0);
        let from = start.min(written.len()) as u64;
        let found = read(&log, from, most);
        let (end, lost) = check(&found, from, &written);
        prop_assert_eq!(end, extent.end);
        prop_assert_eq!(lost, extent.first.saturating_sub(from));

        // A guest that died: the newest segment lost its tail.
        let last = *log.segments.back().unwrap();
        let file = File::options().write(true).open(path(folder.path(), last.first)).unwrap();
        file.set_len(last.size.saturating_sub(cut)).unwrap();
        let mut log = Log::open(folder.path(), capacity).unwrap();
        let end = log.extent(0).end;
        prop_assert!(end <= extent.end && extent.end - end <= cut.max(1) * 400);
        written.truncate(usize::try_from(end).unwrap());
        log.append(Stream::Stdout, b"after");
        written.extend(b"after".iter().map(|byte| (Stream::Stdout, *byte)));
        let first = log.extent(0).first;
        let (reached, lost) = check(&read(&log, first, most), first, &written);
        prop_assert_eq!((reached, lost), (written.len() as u64, 0));
    }

    #[test]
    fn a_segment_of_any_bytes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let folder = folder();
        fs::write(path(folder.path(), 3), &bytes).unwrap();
        fs::write(path(folder.path(), 1000), b"\x01\x02\0\0\0hi").unwrap();
        let log = Log::open(folder.path(), 1 << 20).unwrap();
        let mut at = 0;
        for found in read(&log, 0, 100) {
            match found {
                Found::Record(_, position, bytes) => {
                    prop_assert_eq!(position, at);
                    at += bytes.len() as u64;
                }
                Found::Gap { from, to } => {
                    prop_assert_eq!(from, at);
                    at = to;
                }
                Found::End => {}
            }
        }
        prop_assert_eq!(at, 1002);
    }
}

/// The byte that is written at a position.
fn at_position(at: u64) -> u8 {
    (at.wrapping_mul(31) % 251) as u8
}

/// What becomes of one of the log's files.
#[derive(Debug, Clone)]
enum Damage {
    Cut(u16),
    Flip(u16, u8),
    Add(Vec<u8>),
    Gone,
    /// Its bytes, under another position's name.
    Twice(u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<u16>().prop_map(Damage::Cut),
        (any::<u16>(), 1_u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        prop::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Add),
        Just(Damage::Gone),
        prop_oneof![0..20_000_u64, any::<u64>(), Just(u64::MAX)].prop_map(Damage::Twice),
    ]
}

impl Damage {
    fn does(&self, folder: &Path, name: &Path) {
        let Ok(mut bytes) = fs::read(name) else {
            return;
        };
        match self {
            Self::Cut(to) => bytes.truncate(usize::from(*to)),
            Self::Flip(at, bits) => {
                let at = usize::from(*at) % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bits;
                }
            }
            Self::Add(more) => bytes.extend(more),
            Self::Gone => return fs::remove_file(name).unwrap(),
            Self::Twice(first) => return fs::write(path(folder, *first), bytes).unwrap(),
        }
        fs::write(name, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn a_damaged_log_opens_is_read_to_its_end_and_goes_on(
        pieces in prop::collection::vec(1_usize..400, 1..60),
        capacity in 700_u64..9000,
        damages in prop::collection::vec((any::<prop::sample::Index>(), damage()), 1..6),
        from in 0_u64..30_000,
        most in 1_usize..500,
    ) {
        let folder = folder();
        let mut log = Log::open(folder.path(), capacity).unwrap();
        for length in &pieces {
            let end = log.extent(0).end;
            log.append(Stream::Stdout, &(end..end + *length as u64).map(at_position).collect::<Vec<u8>>());
        }
        let all: Vec<u64> = log.segments.iter().map(|s| s.first).collect();
        let written = log.extent(0).end;
        let mut harmed = vec![];
        for (which, damage) in &damages {
            let first: &u64 = which.get(&all);
            damage.does(folder.path(), &path(folder.path(), *first));
            harmed.push(match damage {
                Damage::Twice(first) => *first,
                _ => *first,
            });
        }
        let mut log = Log::open(folder.path(), capacity).unwrap();
        let end = log.extent(0).end;
        for from in [from.min(end), log.extent(0).first] {
            let mut at = from;
            let mut cursor = Cursor::new(from);
            let mut right = vec![false; usize::try_from(written).unwrap()];
            loop {
                let found = cursor.next(&log, most).unwrap();
                let held = cursor.open.as_ref().map_or(0, |open| open.buffer.capacity());
                prop_assert!(held <= 2 * CHUNK, "{}", held);
                let (begins, ends) = match found {
                    Found::Record(_, position, bytes) => {
                        let ends = position + bytes.len() as u64;
                        prop_assert!(bytes.len() <= most);
                        for (at, byte) in (position..written).zip(bytes) {
                            right[usize::try_from(at).unwrap()] = byte == at_position(at);
                        }
                        (position, ends)
                    }
                    Found::Gap { from, to } => (from, to),
                    Found::End => break,
                };
                prop_assert!(begins == at && ends > at);
                at = ends;
            }
            prop_assert!(at >= end);
            // What is whole is there, whatever has become of its neighbours.
            let ends = all.iter().skip(1).chain([&written]);
            for (first, next) in all.iter().zip(ends) {
                if !harmed.iter().any(|at| (*first..*next).contains(at)) {
                    let there = (from.max(*first)..*next).map(|at| right[usize::try_from(at).unwrap()]);
                    prop_assert!(there.min() != Some(false), "of {} to {} something is missing: {:?}", first, next, harmed);
                }
            }
        }
        log.append(Stream::Stderr, b"after");
        let whole = read(&log, end, 500);
        prop_assert_eq!(whole, [Found::Record(Stream::Stderr, end, b"after".to_vec())]);
        // What was damaged has its bound still.
        for _ in 0..40 {
            log.append(Stream::Stdout, &[8; 400]);
        }
        prop_assert!(on_disk(folder.path()) <= capacity + (HEAD + 400) as u64 + foreign(folder.path()));
    }
}

/// What of the folder is no segment of the log.
fn foreign(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let others = entries.filter(|entry| entry.file_name().to_str().and_then(first_of).is_none());
    others.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn a_reader_goes_on_in_what_is_dropped_and_is_told_of_the_rest() {
    let folder = folder();
    let mut log = Log::open(folder.path(), 4096).unwrap();
    let mut cursor = Cursor::new(0);
    log.append(Stream::Stdout, &[1; 100]);
    log.append(Stream::Stdout, &[2; 100]);
    let first = cursor.next(&log, 50).unwrap();
    assert_eq!(first, Found::Record(Stream::Stdout, 0, vec![1; 50]));
    for _ in 0..100 {
        log.append(Stream::Stderr, &[3; 100]);
    }
    let rest = cursor.next(&log, 1000).unwrap();
    assert_eq!(rest, Found::Record(Stream::Stdout, 50, vec![1; 50]));
    let mut found = vec![];
    while cursor.position() < log.extent(0).end {
        found.push(cursor.next(&log, 1000).unwrap());
    }
    let gaps = found.iter().filter(|one| matches!(one, Found::Gap { .. }));
    assert_eq!(gaps.count(), 1, "{found:?}");
}

#[test]
fn room_is_what_is_not_to_be_kept() {
    let folder = folder();
    let capacity = 8 * CHUNK as u64;
    let mut log = Log::open(folder.path(), capacity).unwrap();
    assert!(log.has_room(0));
    while log.has_room(0) {
        log.append(Stream::Stdout, &[7; 10_000]);
    }
    assert_eq!(log.extent(0).first, 0, "nothing was lost for want of room");
    assert!(log.has_room(log.extent(0).end));
    log.append(Stream::Stdout, &[7; MAX_DATA]);
    log.append(Stream::Stdout, &[7; MAX_DATA]);
    assert!(log.extent(0).first > 0);
}

#[test]
fn what_cannot_be_written_is_a_gap() {
    let folder = folder();
    let inner = folder.path().join("log");
    let mut log = Log::open(&inner, 1 << 20).unwrap();
    log.append(Stream::Stdout, b"before");
    // The next segment cannot be made in a folder that is gone.
    fs::rename(&inner, folder.path().join("away")).unwrap();
    log.writer = None;
    log.append(Stream::Stdout, b"lost");
    fs::rename(folder.path().join("away"), &inner).unwrap();
    log.append(Stream::Stderr, b"after");
    let found = read(&log, 0, 100);
    assert_eq!(
        found,
        [
            Found::Record(Stream::Stdout, 0, b"before".to_vec()),
            Found::Gap { from: 6, to: 10 },
            Found::Record(Stream::Stderr, 10, b"after".to_vec()),
        ]
    );
}

#[test]
fn a_wish_becomes_a_position() {
    let folder = folder();
    let mut log = Log::open(folder.path(), 1 << 20).unwrap();
    log.append(Stream::Stdout, b"0123456789");
    for (wish, position) in [
        (LogStart::Oldest, 0),
        (LogStart::Newest, 10),
        (LogStart::Untaken, 4),
        (LogStart::At(7), 7),
        (LogStart::At(70), 10),
        (LogStart::Last(3), 7),
        (LogStart::Last(30), 0),
    ] {
        assert_eq!(log.resolve(wish, 4), position, "{wish:?}");
    }
}
