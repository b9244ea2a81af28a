//! Running `nft`, and the cheap question whether anybody changed the firewall since.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::program::{self, ProgramError};

/// How long a listing may take.
const LISTING: Duration = Duration::from_secs(10);

/// Why the firewall could not be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// Not installed.
    #[error("`nft` is not installed (Debian: apt install nftables)")]
    Missing,
    /// It could not be run.
    #[error("failed to run {}", program.display())]
    Run {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It said no.
    #[error("`{} {}` ended with {status}: {stderr}", program.display(), args.join(" "))]
    Failed {
        program: PathBuf,
        args: Vec<String>,
        status: std::process::ExitStatus,
        stderr: String,
    },
}

/// The program, resolved once.
#[derive(Debug, Clone)]
pub(crate) struct Nft(Option<PathBuf>);

impl Nft {
    /// Looks in the places where distributions put it.
    pub(crate) fn find() -> Self {
        Self(program::find("nft"))
    }

    /// What it prints; nothing where there is none.
    pub(crate) fn list(&self, args: &[&str]) -> Result<String, ProgramError> {
        let program = self.0.clone().unwrap_or_else(|| "/usr/sbin/nft".into());
        program::run(&program, args, LISTING)
    }

    /// Applies one batch, all or nothing.
    pub(crate) fn apply(&self, batch: &str) -> Result<(), NftError> {
        self.run(&["-f", "-"], batch)
    }

    /// Whether a table is there.
    pub(crate) fn has_table(&self, family: &str, table: &str) -> bool {
        self.list(&["list", "table", family, table]).is_ok()
    }

    /// What tells both tables of that name from changed ones; none unless both are there.
    pub(crate) fn fingerprint(&self, table: &str) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        for family in ["inet", "bridge"] {
            let listing = self.list(&["list", "table", family, table]).ok()?;
            settled(&listing).hash(&mut hasher);
        }
        Some(hasher.finish())
    }

    fn run(&self, args: &[&str], input: &str) -> Result<(), NftError> {
        let program = self.0.as_ref().ok_or(NftError::Missing)?;
        let failed = |source| NftError::Run {
            program: program.clone(),
            source,
        };
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ended early says why on its own.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(NftError::Failed {
            program: program.clone(),
            args: args.iter().map(ToString::to_string).collect(),
            status: output.status,
            stderr: stderr.trim().chars().take(600).collect(),
        })
    }
}

/// A listing with the elements of sets in one order: the kernel keeps them in none.
fn settled(listing: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    let mut elements: Option<Vec<String>> = None;
    for line in listing.lines() {
        let line = line.trim();
        let opened = line.strip_prefix("elements = {");
        let Some(rest) = opened.or_else(|| elements.as_ref().map(|_| line)) else {
            lines.push(line.to_owned());
            continue;
        };
        let closed = rest.ends_with('}');
        let all = elements.get_or_insert_default();
        let each = rest.trim_end_matches('}').split(',').map(str::trim);
        all.extend(each.filter(|one| !one.is_empty()).map(str::to_owned));
        if closed {
            let mut all = elements.take().unwrap_or_default();
            all.sort();
            lines.extend(all);
        }
    }
    lines.extend(elements.unwrap_or_default());
    lines
}

/// The number of the firewall's last change in this network namespace: it rises with every commit
/// of anybody's. `NFT_MSG_GETGEN`, `include/uapi/linux/netfilter/nf_tables.h`.
#[must_use]
pub fn generation() -> Option<u32> {
    const NFT_MSG_NEWGEN: u16 = 15;
    const NFT_MSG_GETGEN: u16 = 16;
    const SUBSYSTEM: u16 = 10 << 8;
    const NLM_F_REQUEST: u16 = 1;
    const NFTA_GEN_ID: u16 = 1;
    // struct nlmsghdr (16 bytes) and struct nfgenmsg (4 bytes: family, version, res_id).
    let mut request = Vec::with_capacity(20);
    request.extend(20_u32.to_ne_bytes());
    request.extend((SUBSYSTEM | NFT_MSG_GETGEN).to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 12]);
    let mut socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.bind_auto().ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    socket.send(&request, 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    let kind = answer.get(4..6)?;
    if kind != (SUBSYSTEM | NFT_MSG_NEWGEN).to_ne_bytes() {
        return None;
    }
    let mut attributes = answer.get(20..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let tag = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if tag == NFTA_GEN_ID {
            return Some(u32::from_be_bytes(attributes.get(4..8)?.try_into().ok()?));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_elements_does_not_count_and_everything_else_does() {
        let listing = |elements: &str, rule: &str| {
            format!(
                "table inet x {{\n\tset s {{\n\t\telements = {{ {elements} }}\n\t}}\n\t{rule}\n}}\n"
            )
        };
        let one = settled(&listing("a . 1,\n\t\t\tb . 2", "drop"));
        assert_eq!(one, settled(&listing("b . 2, a . 1", "drop")));
        assert_ne!(one, settled(&listing("b . 2", "drop")));
        assert_ne!(one, settled(&listing("b . 2, a . 1", "accept")));
        assert!(one.contains(&"drop".to_owned()));
    }
}
