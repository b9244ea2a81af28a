//! Which resolvers the host uses: resolv.conf(5), and systemd-resolved's own file where the first
//! one names only its stub.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const DNS_PORT: u16 = 53;
/// As many as the C library uses (resolv.conf(5), MAXNS).
const MOST: usize = 3;
/// More than this of a file is not read.
const LONGEST: u64 = 64 << 10;
/// How long the files are believed.
const BELIEVED: Duration = Duration::from_secs(2);
/// Where systemd-resolved's stub listens (systemd-resolved.service(8)).
const STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// The resolvers that questions are forwarded to.
#[derive(Debug)]
pub struct Resolvers {
    source: Source,
    /// Our own addresses: asking them would be asking ourselves.
    own: Vec<IpAddr>,
    read: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

#[derive(Debug)]
enum Source {
    Fixed(SocketAddr),
    Files { main: PathBuf, behind_stub: PathBuf },
}

impl Resolvers {
    /// Always this one.
    #[must_use]
    pub fn fixed(server: SocketAddr) -> Self {
        Self::of(Source::Fixed(server), vec![])
    }

    /// The host's, as they are at each moment. `own` are addresses of ours.
    #[must_use]
    pub fn of_host(own: Vec<IpAddr>) -> Self {
        Self::of_files(
            "/etc/resolv.conf".into(),
            "/run/systemd/resolve/resolv.conf".into(),
            own,
        )
    }

    /// The same, from other files.
    #[must_use]
    pub fn of_files(main: PathBuf, behind_stub: PathBuf, own: Vec<IpAddr>) -> Self {
        Self::of(Source::Files { main, behind_stub }, own)
    }

    fn of(source: Source, own: Vec<IpAddr>) -> Self {
        Self {
            source,
            own,
            read: Mutex::default(),
        }
    }

    /// The resolvers now, the first to be asked first. Reads small local files, at most every two
    /// seconds.
    #[must_use]
    pub fn current(&self) -> Vec<SocketAddr> {
        let (main, behind_stub) = match &self.source {
            Source::Fixed(server) => return vec![*server],
            Source::Files { main, behind_stub } => (main, behind_stub),
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, servers)) = read.as_ref()
            && at.elapsed() < BELIEVED
        {
            return servers.clone();
        }
        let servers_in = |path| {
            let mut servers = nameservers(&text(path));
            servers.retain(|server| !self.own.contains(&server.ip()));
            servers
        };
        let mut servers = servers_in(main);
        let is_stub = |server: &SocketAddr| STUBS.map(IpAddr::V4).contains(&server.ip());
        if servers.iter().any(is_stub) {
            let behind = servers_in(behind_stub);
            if !behind.is_empty() {
                servers = behind;
            }
        }
        servers.truncate(MOST);
        *read = Some((Instant::now(), servers.clone()));
        servers
    }
}

fn text(path: &PathBuf) -> String {
    let mut bytes = vec![];
    // Absent or unreadable: no resolvers.
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(LONGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The `nameserver` lines. What cannot be read is left out, as the C library does.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let is_server = words.next() == Some("nameserver");
        words.next().filter(|_| is_server).and_then(parse)
    };
    text.lines().filter_map(server).collect()
}

fn parse(word: &str) -> Option<SocketAddr> {
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().ok()?;
    match (address, zone) {
        (address, None) => Some((address, DNS_PORT).into()),
        (IpAddr::V6(address), Some(zone)) => scoped(address, zone),
        (IpAddr::V4(_), Some(_)) => None,
    }
}

/// `fe80::1%eth0`: on that link.
fn scoped(address: Ipv6Addr, zone: &str) -> Option<SocketAddr> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if zone.starts_with('.') || !zone.chars().all(plain) {
        return None;
    }
    let index = zone.parse().ok().or_else(|| {
        let index = std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex"));
        index.ok()?.trim().parse().ok()
    })?;
    Some(SocketAddrV6::new(address, DNS_PORT, 0, index).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_nameserver_lines_count() {
        let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.0.0.1\n  nameserver\t10.0.0.2 x\n\
                    nameserver fd00::1\nnameserver here\nnameserver\nnameservers 1.1.1.1\n\
                    nameserver fe80::1%1\nnameserver fe80::1%../x\nnameserver 10.0.0.3%1\n";
        let found = nameservers(text);
        let expected = [
            "10.0.0.1:53",
            "10.0.0.2:53",
            "[fd00::1]:53",
            "[fe80::1%1]:53",
        ];
        let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_stub_is_looked_behind_and_we_are_never_asked_ourselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let own = vec![IpAddr::from([172, 16, 0, 1])];
        let servers = |main: &str, behind: Option<&str>| {
            std::fs::write(path("main"), main).unwrap();
            let _ = std::fs::remove_file(path("behind"));
            if let Some(behind) = behind {
                std::fs::write(path("behind"), behind).unwrap();
            }
            let resolvers = Resolvers::of_files(path("main"), path("behind"), own.clone());
            let servers = resolvers.current();
            servers.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        assert_eq!(
            servers(stub, Some("nameserver 10.0.0.1\n")),
            ["10.0.0.1:53"]
        );
        assert_eq!(servers(stub, None), ["127.0.0.53:53"]);
        assert_eq!(
            servers("nameserver 127.0.0.1", Some("nameserver 10.0.0.1")),
            ["127.0.0.1:53"]
        );
        assert_eq!(
            servers("nameserver 172.16.0.1\nnameserver 10.0.0.2", None),
            ["10.0.0.2:53"]
        );
        let many = "nameserver 10.0.0.1\n".repeat(9);
        assert_eq!(servers(&many, None).len(), MOST);
        let nothing = Resolvers::of_files(path("no"), path("none"), vec![]);
        assert_eq!(nothing.current(), []);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,300}") {
            let _ = nameservers(&text);
        }

        #[test]
        fn nor_one_that_is_nearly_right(word in "[0-9a-f:.%/-]{0,30}") {
            let _ = nameservers(&format!("nameserver {word}"));
        }
    }
}
