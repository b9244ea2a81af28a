//! The few words of QMP that are needed, one connection for each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Executes a command without arguments and waits for its answer.
pub(crate) fn execute(socket: &Path, command: &str) -> Result<Value> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    let mut ask = |command: &str| -> Result<Value> {
        writeln!(writer, "{}", serde_json::json!({ "execute": command }))?;
        for line in lines.by_ref() {
            let said: Value = serde_json::from_str(&line?)?;
            if let Some(error) = said.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            // The greeting and events come in between.
            if let Some(answer) = said.get("return") {
                return Ok(answer.clone());
            }
        }
        bail!("QEMU closed its socket before it answered {command}")
    };
    ask("qmp_capabilities")?;
    ask(command)
}
