//! What goes wrong in the middle of a copy: whoever reads the target finds the old file, the new one, or none.

use std::cell::Cell;
use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use banger_files::ReceiveError;
use banger_guest::files::TransferError;
use banger_guest_proto::{AgentErrorCode, CHANGED, CUT_SHORT, FilesDone};

use crate::{copy_in, copy_in_watched, copy_out, copy_out_watched};

const LARGE: usize = 8_000_000;

type Copied = Result<(FilesDone, FilesDone), TransferError>;
type Way = fn(&Path, &Path, &dyn Fn(&UnixStream, u64)) -> Copied;

/// Both ways.
const WAYS: [(&str, Way); 2] = [("in", copy_in_watched), ("out", copy_out_watched)];

/// Does something once so many bytes have passed.
fn after<'a>(bytes: u64, then: impl FnOnce(&UnixStream) + 'a) -> impl Fn(&UnixStream, u64) + 'a {
    let (left, then) = (Cell::new(bytes), Cell::new(Some(then)));
    move |stream, count| {
        left.set(left.get().saturating_sub(count));
        if left.get() == 0
            && let Some(then) = then.take()
        {
            then(stream);
        }
    }
}

#[test]
fn a_copy_that_is_cut_off_leaves_the_old_file_or_none() {
    for (way, copy) in WAYS {
        for bytes in [1, 1000, 300_000, 5_000_000] {
            let place = tempfile::tempdir().unwrap();
            let (from, to) = (place.path().join("from"), place.path().join("to"));
            fs::create_dir(&from).unwrap();
            fs::create_dir(&to).unwrap();
            // The second name is there already, as it was once.
            for name in ["a-new", "b-old"] {
                fs::write(from.join(name), "x".repeat(LARGE)).unwrap();
            }
            let target = to.join("from");
            fs::create_dir(&target).unwrap();
            fs::write(target.join("b-old"), "old").unwrap();
            let cut = after(bytes, |stream| stream.shutdown(Shutdown::Both).unwrap());
            let error = copy(&from, &to, &cut).unwrap_err();
            assert!(error.is_connection(), "{way} {bytes}: {error:?}");
            // In the guest, which may have been killed there and then, and here.
            let whole = |name: &str| match fs::read(target.join(name)) {
                Ok(bytes) => bytes == b"old" || bytes.len() == LARGE,
                Err(_) => name == "a-new",
            };
            let names = || -> Vec<String> {
                let entries = fs::read_dir(&target).unwrap();
                let names = entries.map(|entry| entry.unwrap().file_name());
                names.map(|name| name.into_string().unwrap()).collect()
            };
            let is_so = || {
                whole("a-new")
                    && whole("b-old")
                    && names()
                        .iter()
                        .all(|name| ["a-new", "b-old"].contains(&name.as_str()))
            };
            until(is_so, || format!("{way} {bytes}: {:?}", names()));
            copy(&from, &to, &|_, _| {}).unwrap();
            for name in ["a-new", "b-old"] {
                let size = fs::metadata(target.join(name)).unwrap().len();
                assert_eq!(size, LARGE as u64, "{way} {bytes} {name}");
            }
        }
    }
}

fn until(is_so: impl Fn() -> bool, what: impl Fn() -> String) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{}", what());
        let pause = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told_and_never_half_there() {
    for (way, copy) in WAYS {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::write(&from, "x".repeat(LARGE)).unwrap();
        fs::write(&to, "old").unwrap();
        let open = || fs::File::options().write(true).open(&from).unwrap();
        let shorter = after(1_000_000, |_| open().set_len(10).unwrap());
        let (there, here) = copy(&from, &to, &shorter).unwrap();
        let mut told = here;
        told.with_senders(there);
        let what: Vec<&str> = told.problems.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(what, [CUT_SHORT], "{way}");
        assert_eq!(fs::read(&to).unwrap(), b"old", "{way}");

        // A log that grows: what was there is copied, and it is told that there is more.
        fs::write(&from, "x".repeat(LARGE)).unwrap();
        let longer = after(1_000_000, |_| {
            use std::io::Write;
            let file = fs::File::options().append(true).open(&from);
            file.unwrap().write_all(b"more").unwrap();
        });
        let (there, here) = copy(&from, &to, &longer).unwrap();
        assert!(here.is_whole(), "{way}: {here:?}");
        let sentences: Vec<String> = there.problems.iter().map(|one| one.sentence()).collect();
        assert_eq!(
            sentences,
            [format!(
                "copied, but perhaps not as it was at one moment: {}: {CHANGED}",
                there.problems[0].path
            )]
        );
        assert_eq!(
            fs::read(&to).unwrap(),
            "x".repeat(LARGE).as_bytes(),
            "{way}"
        );
        let problems = copy(&from, &to, &|_, _| {}).unwrap();
        assert!(
            problems.0.is_whole() && problems.1.is_whole(),
            "{way}: {problems:?}"
        );
        assert_eq!(fs::read(&to).unwrap().len(), LARGE + 4, "{way}");
    }
}

#[test]
fn a_further_name_of_a_file_that_was_cut_short_is_a_file_of_its_own() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("one"), "x".repeat(LARGE)).unwrap();
    fs::hard_link(from.join("one"), from.join("two")).unwrap();
    let shorter = after(1_000_000, |_| {
        let file = fs::File::options().write(true).open(from.join("one"));
        file.unwrap().set_len(10).unwrap();
    });
    let (left_out, _) = copy_in_watched(&from, &to, &shorter).unwrap();
    assert_eq!(left_out.problems.len(), 1, "{left_out:?}");
    let sizes: Vec<u64> = fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .collect();
    assert_eq!(sizes, [10], "the second name is whole");
}

/// A small file system in a folder's place.
struct Full<'a>(&'a Path);

impl<'a> Full<'a> {
    fn at(folder: &'a Path) -> Result<Self, String> {
        fs::create_dir(folder).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, c"size=2m")
            .map_err(|error| format!("no file system can be mounted here: {error}"))?;
        Ok(Self(folder))
    }
}

impl Drop for Full<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_what_was_there_stays() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::write(from.join("a"), "new").unwrap();
    fs::write(from.join("large"), "x".repeat(LARGE)).unwrap();
    let _disk = match Full::at(&to) {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED(a full disk): {why}"),
    };
    fs::create_dir(to.join("from")).unwrap();
    fs::write(to.join("from/large"), "old").unwrap();
    let left = |way: &str| {
        assert_eq!(fs::read(to.join("from/large")).unwrap(), b"old", "{way}");
        for entry in fs::read_dir(to.join("from")).unwrap() {
            let name = entry.unwrap().file_name();
            assert!(name == "large" || name == "a", "{way}: {name:?}");
        }
    };
    let error = copy_in(&from, &to).unwrap_err();
    let TransferError::Refused(told) = error else {
        panic!("{error:?}")
    };
    assert_eq!(told.code, AgentErrorCode::DiskFull);
    assert!(
        told.message.contains("no room for `from/large`"),
        "{told:?}"
    );
    left("in");
    let error = copy_out(&from, &to).unwrap_err();
    assert!(
        matches!(&error, TransferError::Receive(ReceiveError::Full { path, .. }) if path.to_string() == "from/large"),
        "{error:?}"
    );
    left("out");
}
