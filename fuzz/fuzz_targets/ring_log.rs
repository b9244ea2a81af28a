//! A session's log on the guest's disk, written and then damaged: whatever its files hold, it opens, each position of it
//! is there or told missing, and it goes on within its bound.
#![no_main]

#[allow(dead_code, reason = "the agent uses more of it")]
#[path = "../../bin/banger-vsock-agent/src/agent/sessions/log.rs"]
mod log;

use std::fs;
use std::os::unix::fs::FileExt;

use banger_guest_proto::{LogStart, Stream};
use libfuzzer_sys::fuzz_target;
use log::{Cursor, Found, Log};

/// Room for a few segments of the fuzzer's size.
const CAPACITY: u64 = 4096;

type Written<'a> = Vec<(bool, &'a [u8])>;
/// A file by its number, where in it, and what is there then.
type Damage<'a> = Vec<(u8, u16, &'a [u8])>;

fuzz_target!(
    |input: (Written<'_>, Damage<'_>, u64, u16, Option<(u64, &[u8])>)| {
        let (written, damage, from, most, added) = input;
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = Log::open(folder.path(), CAPACITY).expect("a log");
        for (is_out, bytes) in written {
            let stream = if is_out {
                Stream::Stdout
            } else {
                Stream::Stderr
            };
            log.append(stream, bytes);
        }
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        for (which, at, bytes) in damage {
            let name = &names[usize::from(which) % names.len()];
            let file = fs::File::options()
                .write(true)
                .open(name)
                .expect("a segment");
            let length = file.metadata().expect("a segment").len();
            if bytes.is_empty() {
                file.set_len(u64::from(at).min(length)).expect("cut");
            } else {
                file.write_all_at(bytes, u64::from(at).min(length))
                    .expect("written");
            }
        }
        // A file that was never the log's.
        if let Some((first, bytes)) = added {
            fs::write(folder.path().join(format!("{first:016x}.log")), bytes).expect("written");
        }

        let mut log = Log::open(folder.path(), CAPACITY).expect("it opens");
        let extent = log.extent(0);
        assert!(extent.first <= extent.end);
        let most = usize::from(most).max(1);
        for from in [log.resolve(LogStart::At(from), 0), extent.first] {
            let mut cursor = Cursor::new(from);
            let mut at = from;
            loop {
                match cursor.next(&log, most).expect("its files are there") {
                    Found::Record(_, position, bytes) => {
                        assert!(position == at && !bytes.is_empty() && bytes.len() <= most);
                        at += bytes.len() as u64;
                    }
                    Found::Gap { from, to } => {
                        assert!(from == at && to > from);
                        at = to;
                    }
                    Found::End => break,
                }
                assert_eq!(cursor.position(), at);
            }
            assert_eq!(at, extent.end.max(from));
        }
        log.append(Stream::Stdout, b"after");
        let mut cursor = Cursor::new(extent.end);
        let after = cursor.next(&log, 5).expect("it is there");
        assert_eq!(
            after,
            Found::Record(Stream::Stdout, extent.end, b"after".to_vec())
        );
        for _ in 0..20 {
            log.append(Stream::Stderr, &[7; 400]);
        }
        let sizes = fs::read_dir(folder.path()).expect("a folder").map(|entry| {
            let entry = entry.expect("an entry");
            // One whose name is beyond all positions is none of the log's.
            let is_ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.as_bytes()[0] < b'8');
            if is_ours {
                entry.metadata().expect("a file").len()
            } else {
                0
            }
        });
        assert!(sizes.sum::<u64>() <= CAPACITY + 405);
    }
);
