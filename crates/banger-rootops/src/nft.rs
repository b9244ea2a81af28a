//! Running `nft`, and the cheap question whether anybody changed the firewall since.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

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
        let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
        Self(
            places
                .iter()
                .map(|dir| Path::new(dir).join("nft"))
                .find(|path| path.is_file()),
        )
    }

    /// Applies one batch, all or nothing.
    pub(crate) fn apply(&self, batch: &str) -> Result<(), NftError> {
        self.run(&["-f", "-"], batch)
    }

    /// Whether a table is there.
    pub(crate) fn has_table(&self, family: &str, table: &str) -> bool {
        self.run(&["list", "table", family, table], "").is_ok()
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

/// The number of the firewall's last change in this network namespace: it rises with every commit
/// of anybody's. `NFT_MSG_GETGEN`, `include/uapi/linux/netfilter/nf_tables.h`.
pub(crate) fn generation() -> Option<u32> {
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
