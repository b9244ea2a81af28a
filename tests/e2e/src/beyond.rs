//! A machine beyond the host: a namespace of its own behind a cable, that answers pings.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Its address; documentation's, nobody else's.
const ADDRESS: &str = "198.51.100.2";
const HOST: &str = "198.51.100.1";

/// Lives as long as the value; the cable goes with it.
#[derive(Debug)]
pub struct Beyond {
    process: Child,
}

impl Beyond {
    /// Puts it up. It answers whoever asks, also guests that are not masqueraded.
    ///
    /// # Panics
    /// When namespaces or links cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo there; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "there\n");
        let pid = process.id().to_string();
        let cable = "link add up0 type veth peer name eth0 netns";
        ip(&format!("{cable} {pid}"));
        ip(&format!("addr add {HOST}/24 dev up0"));
        ip("link set up0 up");
        let inside = |args: &str| {
            let args = format!("--target {pid} --net ip {args}");
            run(Command::new("nsenter").args(args.split(' ')));
        };
        inside(&format!("addr add {ADDRESS}/24 dev eth0"));
        inside("link set eth0 up");
        inside(&format!("route add default via {HOST}"));
        Self { process }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(&self) -> &'static str {
        ADDRESS
    }
}

impl Default for Beyond {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        // It ends with its standard input, and takes its end of the cable along.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn ip(args: &str) {
    run(Command::new("ip").args(args.split(' ')));
}

fn run(command: &mut Command) {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let output = command.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
