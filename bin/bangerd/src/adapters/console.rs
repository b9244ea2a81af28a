//! Reading a console: what a guest writes there is hostile, so little of it is read and none of its
//! control bytes are shown.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use banger_engine::ports::Farewell;
use rustix::fs::{Mode, OFlags};

use super::blocking;

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

/// The same of the VM in that folder.
pub(crate) async fn end(folder: &Path) -> (Option<Farewell>, Vec<String>) {
    let console = folder.join("run/console");
    let end = blocking(move || Ok(read_end(&console))).await;
    end.unwrap_or_default()
}

fn tail(mut file: File) -> io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last farewell counts: nothing but the guest's last process is left to write after it.
fn farewell(text: &str) -> Option<Farewell> {
    text.lines().rev().take(4).find_map(|line| {
        match line.trim_end().strip_prefix(banger_guest_proto::FAREWELL)? {
            "poweroff" => Some(Farewell::Poweroff),
            "reboot" => Some(Farewell::Reboot),
            _ => None,
        }
    })
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
        assert_eq!(farewell("echo banger-farewell: poweroff\n"), None);
        assert_eq!(farewell("banger-farewell: poweroff\n1\n2\n3\n4\n5\n"), None);
    }

    #[test]
    fn control_bytes_are_not_shown_and_lines_are_cut() {
        let lines = last_lines(&format!("\x1b[2Jhello\n\n{}\n", "x".repeat(500)));
        assert_eq!(lines[0], "[2Jhello");
        assert_eq!(lines[1].len(), 200);
    }
}
