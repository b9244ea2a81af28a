//! Reading a console: what a guest writes there is hostile, so little of it is read and none of its
//! control bytes are shown.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use banger_engine::ports::Farewell;
use rustix::fs::{Mode, OFlags};

use super::blocking;
use super::writes::Writes;

/// How much of the end is looked at.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 8;

/// Opens a file of a VM's, which no link may stand for.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

/// The farewell and the last lines of the console at `path`. Absent: neither.
pub(crate) fn read_end(path: &Path) -> (Option<Farewell>, Vec<String>) {
    let text = open(path).and_then(tail).unwrap_or_default();
    (farewell(&text), last_lines(&text))
}

/// The same of a file in a VM's folder: what guest or VMM have written into it.
pub(crate) async fn end(folder: &Path, name: &str) -> (Option<Farewell>, Vec<String>) {
    let file = folder.join(name);
    let end = blocking(move || Ok(read_end(&file))).await;
    end.unwrap_or_default()
}

fn tail(mut file: File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// For so long a guest must have written nothing before its console is looked at: one that has halted has time, and
/// one that writes much costs no more than a look at its console's length.
const QUIET: Duration = Duration::from_secs(2);

/// Resolves when the kernel has said that it stands still for good, and nothing more since: a guest that halts, or powers off where
/// the machine cannot, leaves its VMM running. A guest that writes nothing wakes nobody. Cancel-safe: it only looks.
pub(crate) async fn halts(writes: &Writes, path: &Path) {
    halts_after(writes, path, QUIET).await;
}

async fn halts_after(writes: &Writes, path: &Path, quiet: Duration) {
    let mut seen = None;
    loop {
        // From before the look, so that nothing is missed between the two.
        let next = writes.next(path);
        let now = std::fs::symlink_metadata(path).ok().map(|it| it.len());
        if now != seen {
            seen = now;
            drop(next);
            tokio::time::sleep(quiet).await;
            continue;
        }
        let console = path.to_owned();
        let read = blocking(move || Ok(open(&console).and_then(tail).unwrap_or_default()));
        if stands_still(&read.await.unwrap_or_default()) {
            return;
        }
        match next {
            Ok(next) => next.happened().await,
            // It is not there, or the host has no more watches: it is looked at all the same.
            Err(_) => tokio::time::sleep(quiet).await,
        }
    }
}

fn stands_still(text: &str) -> bool {
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.and_then(kernels_end) == Some(Farewell::Poweroff)
}

/// So many lines before the last one may hold the farewell.
const LAST_LINES: usize = 4;

/// The last farewell counts: nothing but the guest's last process is left to write after it. An init that ends the guest by itself
/// leaves it to the kernel to say how.
fn farewell(text: &str) -> Option<Farewell> {
    let lines = || text.lines().rev().take(LAST_LINES).map(str::trim_end);
    // With the time in front where the console let nothing out but what the kernel itself says.
    let ours = lines().map(without_time).find_map(|line| {
        match line.strip_prefix(banger_guest_proto::FAREWELL)? {
            "poweroff" => Some(Farewell::Poweroff),
            "reboot" => Some(Farewell::Reboot),
            _ => None,
        }
    });
    let failed = |line: &str| line.starts_with(banger_guest_proto::BOOT_FAILED);
    if ours.is_some() || lines().map(without_time).any(failed) {
        return ours;
    }
    lines().find_map(kernels_end)
}

/// What the kernel says last of all (`kernel/reboot.c`), after the time that it puts in front. A panic and a reset say nothing.
fn kernels_end(line: &str) -> Option<Farewell> {
    let what = without_time(line.trim()).strip_prefix("reboot: ")?;
    match what {
        "Power down" | "System halted" => Some(Farewell::Poweroff),
        _ if what.starts_with("Restarting system") => Some(Farewell::Reboot),
        _ => None,
    }
}

/// A line of the kernel's log without the time in front of it.
fn without_time(line: &str) -> &str {
    let after = || line.strip_prefix('[')?.split_once("] ");
    after().map_or(line, |(_, rest)| rest)
}

fn last_lines(text: &str) -> Vec<String> {
    let clean = |line: &str| {
        line.chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect::<String>()
    };
    let lines: Vec<String> = text
        .lines()
        .map(clean)
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_stands_at_the_end_on_a_line_of_its_own() {
        assert_eq!(
            farewell("boot\r\nbanger-farewell: poweroff\r\n"),
            Some(Farewell::Poweroff)
        );
        assert_eq!(
            farewell("banger-farewell: reboot\n[ 1.0] reboot: Restarting\n"),
            Some(Farewell::Reboot)
        );
        assert_eq!(
            farewell("[ 9.1] banger-farewell: poweroff\n[ 9.2] reboot: Restarting system\n"),
            Some(Farewell::Poweroff)
        );
        assert_eq!(farewell("echo banger-farewell: poweroff\n"), None);
        assert_eq!(farewell("banger-farewell: poweroff\n1\n2\n3\n4\n5\n"), None);
    }

    #[test]
    fn where_an_init_ends_the_guest_the_kernel_says_how() {
        let ends = |text: &str| farewell(&format!("The system is going down\r\n{text}\r\n"));
        for (text, end) in [
            (
                "[   12.345678] reboot: Power down",
                Some(Farewell::Poweroff),
            ),
            ("[    2.1] reboot: System halted", Some(Farewell::Poweroff)),
            ("reboot: Restarting system", Some(Farewell::Reboot)),
            (
                "[  3.2] reboot: Restarting system with command 'x'",
                Some(Farewell::Reboot),
            ),
            // The agent's word comes before the kernel's, which always restarts after it.
            (
                "banger-farewell: poweroff\n[    3.2] reboot: Restarting system",
                Some(Farewell::Poweroff),
            ),
            (
                "banger: boot failed: no root\n[    3.2] reboot: Restarting system",
                None,
            ),
            ("reboot: Power down\n1\n2\n3\n4", None),
            ("echo reboot: Power down", None),
            ("[ 1.0] x reboot: Power down", None),
            ("[ 1.0 reboot: Power down", None),
            ("reboot: ", None),
            ("[    1.0] Kernel panic - not syncing: sysrq", None),
        ] {
            assert_eq!(ends(text), end, "{text}");
        }
    }

    #[test]
    fn a_guest_that_halted_stands_still() {
        assert!(stands_still("x\n[ 1.0] reboot: System halted\r\n\r\n"));
        assert!(stands_still("[ 1.0] reboot: Power down\n"));
        for text in [
            "",
            "[ 1.0] reboot: Restarting system\n",
            "[ 1.0] reboot: System halted\nlogin: ",
        ] {
            assert!(!stands_still(text), "{text}");
        }
    }

    #[tokio::test]
    async fn a_halt_is_seen_once_nothing_follows_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        std::fs::write(&path, "login: ").unwrap();
        let writes = Writes::default();
        let mut seen = std::pin::pin!(halts_after(&writes, &path, Duration::from_millis(1)));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut seen).await;
        assert!(early.is_err(), "a guest that waits for a login");
        std::fs::write(&path, "login: \n[ 1.0] reboot: System halted\n").unwrap();
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .unwrap();
        // Also one that had halted before anybody looked.
        let seen = halts_after(&writes, &path, Duration::from_millis(1));
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_console_that_nobody_writes_to_is_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let [path, same, halted] =
            ["console", "same", "halted"].map(|name| folder.path().join(name));
        std::fs::write(&path, "login: ").unwrap();
        let writes = Writes::default();
        let mut seen = std::pin::pin!(halts_after(&writes, &path, Duration::from_millis(1)));
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut seen).await;
        assert!(waits.is_err());
        // Whoever looked again would now see a guest that has halted.
        std::fs::hard_link(&path, &same).unwrap();
        std::fs::write(&halted, "[ 1.0] reboot: System halted\n").unwrap();
        std::fs::rename(&halted, &path).unwrap();
        let looked = tokio::time::timeout(Duration::from_millis(100), &mut seen).await;
        assert!(looked.is_err(), "it was looked at though nobody wrote");
        std::fs::write(&same, "login: x").unwrap();
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .unwrap();
    }

    #[test]
    fn control_bytes_are_not_shown_and_lines_are_cut() {
        let lines = last_lines(&format!("\x1b[2Jhello\n\n{}\n", "x".repeat(500)));
        assert_eq!(lines[0], "[2Jhello");
        assert_eq!(lines[1].len(), 200);
    }
}
