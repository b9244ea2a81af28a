//! A stream that stays open: `cat` at its far end gives back what it is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::guest::PATIENCE;
use crate::host::Host;

/// Ends with the value.
pub(super) struct Echo {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Echo {
    /// By a line of the ordinary user's that ends in `cat`.
    pub(super) fn open(host: &Host, line: &str) -> Result<Self> {
        let mut client = host
            .command(line, PATIENCE * 2)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = client.stdin.take().context("piped")?;
        let stdout = BufReader::new(client.stdout.take().context("piped")?);
        Ok(Self {
            client,
            stdin,
            stdout,
        })
    }

    /// Says something, and hears it.
    pub(super) fn say(&mut self, text: &str) -> Result<()> {
        writeln!(self.stdin, "{text}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(
            line.trim_end() == text,
            "the open stream gave {line:?} for {text:?}"
        );
        Ok(())
    }

    /// Hangs up; the far end must end well.
    pub(super) fn end(self) -> Result<()> {
        let Self {
            mut client, stdin, ..
        } = self;
        drop(stdin);
        ensure!(client.wait()?.success(), "the open stream ended badly");
        Ok(())
    }
}
