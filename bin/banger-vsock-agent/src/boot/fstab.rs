//! The image's fstab(5) without what can only hold its init up: lines of devices that a VM does not have. systemd waits 90 s
//! for each and then asks for a password, and others do so when their check fails.

use std::io;
use std::os::fd::AsFd;

use rustix::mount::mount_bind;

use crate::root::{Root, proc_path};

/// Where the image keeps it.
const PATH: &str = "/etc/fstab";
/// Where this boot's is: the image's stays as it is.
const OURS: &str = "/run/banger/fstab";

/// What a source of a block device is written as, beside a path (fstab(5), "The first field").
const TAGS: [&str; 5] = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="];

/// Puts a shorter one over it for this boot, where that has to be.
pub(super) fn shorten(root: &Root) -> io::Result<()> {
    // The root's own /dev is still empty: the kernel's is here.
    let exists = |device: &str| std::path::Path::new(device).exists();
    let Some(text) = without_missing(&root.read_text(PATH), exists) else {
        return Ok(());
    };
    root.write(OURS, text.as_bytes(), 0o644)?;
    let (ours, theirs) = (root.file(OURS)?, root.file(PATH)?);
    Ok(mount_bind(
        proc_path(ours.as_fd()),
        proc_path(theirs.as_fd()),
    )?)
}

/// The text with such lines made comments; nothing when there are none. What an administrator mounts by hand stays.
fn without_missing(text: &str, exists: impl Fn(&str) -> bool) -> Option<String> {
    let is_missing = |line: &str| {
        let mut fields = line.split_whitespace();
        let source = fields.next().unwrap_or("#");
        let options = fields.nth(2).unwrap_or_default();
        let by_tag = TAGS.iter().any(|tag| source.starts_with(tag));
        let is_device = by_tag || source.starts_with("/dev/");
        let is_asked_for = !options.split(',').any(|option| option == "noauto");
        is_device && is_asked_for && (by_tag || !exists(source))
    };
    if !text.lines().any(is_missing) {
        return None;
    }
    let mut kept = String::from(
        "# banger: for this boot, without devices that are not there. The image's own file is under this mount.\n",
    );
    for line in text.lines() {
        if is_missing(line) {
            kept.push_str("# not there: ");
        }
        kept.push_str(line);
        kept.push('\n');
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::without_missing;

    fn kept(text: &str) -> Option<Vec<String>> {
        let kept = without_missing(text, |device| device == "/dev/vda")?;
        let lines = kept.lines().filter(|line| !line.starts_with('#'));
        Some(lines.map(str::to_owned).collect())
    }

    #[test]
    fn lines_of_devices_that_are_not_there_are_comments() {
        let text = "# a comment\n\
                    UUID=0a-1b / ext4 errors=remount-ro 0 1\n\
                    LABEL=\"data\"\t/data\text4\tdefaults 0 2\n\
                    PARTUUID=x none swap sw 0 0\n\
                    /dev/sda1 /boot ext4 defaults 0 2\n\
                    /dev/disk/by-id/x /x ext4 defaults\n\
                    /dev/vda /y ext4 ro\n\
                    /dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n\
                    tmpfs /tmp tmpfs size=1g 0 0\n\
                    server:/export /mnt nfs defaults 0 0\n\
                    /swap.img none swap sw 0 0\n\
                    /srv /root/srv none bind 0 0\n\
                    \n\
                    UUID=z";
        let lines = kept(text).unwrap();
        assert_eq!(
            lines.join("\n"),
            "/dev/vda /y ext4 ro\n\
             /dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n\
             tmpfs /tmp tmpfs size=1g 0 0\n\
             server:/export /mnt nfs defaults 0 0\n\
             /swap.img none swap sw 0 0\n\
             /srv /root/srv none bind 0 0\n"
        );
        let whole = without_missing(text, |_| false).unwrap();
        assert!(whole.contains("# not there: UUID=0a-1b / ext4"), "{whole}");
    }

    #[test]
    fn one_that_needs_nothing_of_the_kind_is_left_alone() {
        for text in [
            "",
            "# UUID=x / ext4\n",
            "tmpfs /tmp tmpfs defaults 0 0\n",
            "/dev/vda / ext4 defaults 0 1\n",
            "\u{0}\u{ff}garbage",
        ] {
            assert_eq!(without_missing(text, |d| d == "/dev/vda"), None, "{text}");
        }
    }
}
