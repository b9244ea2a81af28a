//! Which init an image has: told by what it is, not by what it is called. One rule for whoever pulls an image and whoever boots it.

use std::fmt;

/// What runs an image's guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitFamily {
    /// systemd.
    Systemd,
    /// OpenRC, under whatever first process.
    OpenRc,
    /// runit.
    Runit,
    /// s6.
    S6,
    /// Another: sysvinit, ….
    Other,
}

impl fmt::Display for InitFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "OpenRC",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Other => "/sbin/init",
        })
    }
}

/// An image's init.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundInit {
    /// What process 1 executes.
    pub path: &'static str,
    /// Its family.
    pub family: InitFamily,
}

/// An image's files; links are followed as if its root were `/`.
pub trait ImageFiles {
    /// What tells one file from another.
    type File: PartialEq;
    /// The file that a path leads to, when it may be executed.
    fn program(&self, path: &str) -> Option<Self::File>;
    /// Where a path really leads, without links.
    fn real_path(&self, path: &str) -> Option<String>;
}

/// Where inits are, in the order in which they are looked for.
const CANDIDATES: [&str; 3] = [
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
];

/// The image's init, when it has one.
pub fn find_init(files: &impl ImageFiles) -> Option<FoundInit> {
    let mut candidates = CANDIDATES
        .into_iter()
        .filter_map(|path| Some((path, files.program(path)?)));
    let (path, this) = candidates.next()?;
    let real = files.real_path(path)?;
    // A hard link to busybox has another name; the file is the same.
    let is_busybox = real.ends_with("/busybox")
        || ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .any(|path| files.program(path).is_some_and(|it| it == this));
    let has_openrc = files.program("/sbin/openrc").is_some();
    let name = real.rsplit('/').next().unwrap_or_default();
    let family = if name == "systemd" {
        InitFamily::Systemd
    } else if has_openrc && !is_supervisor(&real) {
        // Also under sysvinit's init, whose inittab then calls it.
        InitFamily::OpenRc
    } else if is_busybox {
        // Without OpenRC's inittab it would only ask for terminals that a VM does not have.
        return None;
    } else if name.starts_with("runit") {
        InitFamily::Runit
    } else if name.starts_with("s6-") || real.contains("/s6-linux-init/") {
        InitFamily::S6
    } else {
        InitFamily::Other
    };
    Some(FoundInit { path, family })
}

/// Whether it brings a way of its own to run services.
fn is_supervisor(real: &str) -> bool {
    ["runit", "s6-"].iter().any(|word| real.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, each with where it really leads; files are the same when that is.
    struct Files<'a>(&'a [(&'a str, &'a str)]);

    impl ImageFiles for Files<'_> {
        type File = String;
        fn program(&self, path: &str) -> Option<String> {
            self.real_path(path)
        }
        fn real_path(&self, path: &str) -> Option<String> {
            let found = self.0.iter().find(|(name, _)| *name == path);
            found.map(|(_, real)| (*real).to_owned())
        }
    }

    fn family(files: &[(&str, &str)]) -> Option<InitFamily> {
        find_init(&Files(files)).map(|found| found.family)
    }

    #[test]
    fn families() {
        for (real, found) in [
            ("/usr/lib/systemd/systemd", Some(InitFamily::Systemd)),
            ("/usr/sbin/openrc-init", Some(InitFamily::Other)),
            ("/usr/sbin/runit-init", Some(InitFamily::Runit)),
            ("/etc/s6-linux-init/current/bin/init", Some(InitFamily::S6)),
            ("/bin/s6-svscan", Some(InitFamily::S6)),
            ("/sbin/init", Some(InitFamily::Other)),
            ("/bin/busybox", None),
        ] {
            assert_eq!(family(&[("/sbin/init", real)]), found, "{real}");
        }
        let openrc = ("/sbin/openrc", "/usr/sbin/openrc");
        for (real, found) in [
            ("/bin/busybox", InitFamily::OpenRc),
            ("/usr/sbin/openrc-init", InitFamily::OpenRc),
            ("/sbin/init", InitFamily::OpenRc),
            ("/sbin/runit-init", InitFamily::Runit),
            ("/lib/systemd/systemd", InitFamily::Systemd),
        ] {
            assert_eq!(family(&[("/sbin/init", real), openrc]), Some(found));
        }
    }

    #[test]
    fn systemd_needs_no_other_name_and_nothing_is_no_init() {
        let path = "/lib/systemd/systemd";
        let found = find_init(&Files(&[(path, path)]));
        assert_eq!(
            found,
            Some(FoundInit {
                path,
                family: InitFamily::Systemd
            })
        );
        assert_eq!(family(&[]), None);
        assert_eq!(family(&[("/sbin/openrc", "/sbin/openrc")]), None);
        let linked = [("/sbin/init", "/x"), ("/bin/busybox", "/x")];
        assert_eq!(family(&linked), None, "a hard link to busybox");
    }
}
