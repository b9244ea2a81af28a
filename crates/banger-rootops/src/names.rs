//! Telling systemd-resolved that names under `.vm` are answered by the owner's daemon: per link
//! (resolvectl(1)), so that it ends with the bridge.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use banger_root_proto::{NamesRouting, Refusal, RefusalCode};

use crate::helper::Helper;
use crate::program::{self, ProgramError};
use crate::refuse::refuse;

const RESOLVECTL: &str = "/usr/bin/resolvectl";
/// Made anew whenever systemd-resolved starts.
const RESOLVED_SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";
/// How long `resolvectl` may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it is believed that nobody else has told the resolver something else.
const BELIEVED: Duration = Duration::from_secs(60);

/// What the resolver was told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToldNames {
    told: Told,
    looked_at: Instant,
}

/// Everything that makes it necessary to tell it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    port: u16,
    bridge: u32,
    /// Inode and time of the resolver's socket.
    resolver: (u64, i64, i64),
}

impl Helper {
    /// Tells the resolver, when it has not been told or has forgotten; whether it had to be.
    pub(crate) fn route_names(
        &mut self,
        bridge: u32,
        port: u16,
    ) -> Result<(NamesRouting, bool), Refusal> {
        if port < 1024 {
            let message = format!("port {port} is not one that the owner's daemon can have");
            return Err(refuse(RefusalCode::Invalid, message));
        }
        let Some(resolver) = resolver() else {
            self.names = None;
            return Ok((NamesRouting::Nobody {}, false));
        };
        let told = Told {
            port,
            bridge,
            resolver,
        };
        let before = self.names.filter(|names| names.told == told);
        let believed = before.is_some_and(|names| names.looked_at.elapsed() < BELIEVED);
        if believed {
            return Ok((NamesRouting::Resolved {}, false));
        }
        let (link, server) = (self.config.bridge.clone(), format!("127.0.0.1:{port}"));
        let knows = before.is_some() && knows(&link, &server);
        let result = if knows { Ok(()) } else { tell(&link, &server) };
        match result {
            Ok(()) => {
                let looked_at = Instant::now();
                self.names = Some(ToldNames { told, looked_at });
                Ok((NamesRouting::Resolved {}, !knows))
            }
            Err(error) => {
                self.names = None;
                let why = error.to_string();
                Ok((NamesRouting::Failed { why }, false))
            }
        }
    }
}

/// What tells this systemd-resolved from one that is started later; none when there is none, or it
/// belongs to another network namespace and knows nothing of our links.
fn resolver() -> Option<(u64, i64, i64)> {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    if namespace("self") != namespace("1") || !Path::new(RESOLVECTL).is_file() {
        return None;
    }
    let socket = std::fs::symlink_metadata(RESOLVED_SOCKET).ok()?;
    Some((socket.ino(), socket.ctime(), socket.ctime_nsec()))
}

fn resolvectl(args: &[&str]) -> Result<String, ProgramError> {
    program::run(Path::new(RESOLVECTL), args, PATIENCE)
}

/// The zone is not signed, and its server speaks neither TLS nor for anybody else.
fn tell(link: &str, server: &str) -> Result<(), ProgramError> {
    for args in [
        ["dnssec", link, "no"],
        ["dnsovertls", link, "no"],
        ["llmnr", link, "no"],
        ["mdns", link, "no"],
        ["default-route", link, "no"],
        ["domain", link, "~vm"],
        ["dns", link, server],
    ] {
        resolvectl(&args)?;
    }
    Ok(())
}

fn knows(link: &str, server: &str) -> bool {
    let says = |what: &str, wanted: &str| {
        let said = resolvectl(&[what, link]).unwrap_or_default();
        said.split_whitespace().any(|word| word == wanted)
    };
    says("domain", "~vm") && says("dns", server)
}
