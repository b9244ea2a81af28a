//! Running a step's program: its output goes to the log and, line by line, to whoever watches; when the
//! watcher cancels, the whole process group is ended.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::BuildError;
use crate::build::BuildWatch;

/// How many lines of a failed program are kept.
const TAIL: usize = 20;

/// What of a program's output an error needs.
#[derive(Debug, Default)]
struct Said {
    tail: Vec<String>,
    disk_full: bool,
}

impl Said {
    fn add(&mut self, line: String) {
        // The programs have no other way to tell: strerror(ENOSPC) in the C locale, and apt's own words.
        self.disk_full |= ["No space left on device", "have enough free space"]
            .iter()
            .any(|words| line.contains(words));
        if self.tail.len() == TAIL {
            self.tail.remove(0);
        }
        self.tail.push(line);
    }
}

/// Runs one step's program to its end.
pub(crate) fn run_step(
    step: &'static str,
    command: &mut Command,
    package: &'static str,
    log: &Path,
    watch: &dyn BuildWatch,
) -> Result<(), BuildError> {
    let argv = std::iter::once(command.get_program()).chain(command.get_args());
    let argv: Vec<String> = argv
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let failed = |status: String, said: Said| BuildError::Step {
        step,
        argv: argv.join(" "),
        status,
        tail: said.tail,
        disk_full: said.disk_full,
        log: log.to_owned(),
    };
    let not_run = |error: io::Error| failed(error.to_string(), Said::default());
    let (reader, writer) = io::pipe().map_err(not_run)?;
    let copy = writer.try_clone().map_err(not_run)?;
    command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(copy)
        .process_group(0)
        .env("LC_ALL", "C.UTF-8");
    let mut child = match command.spawn() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BuildError::Missing {
                program: argv[0].clone(),
                package,
            });
        }
        Err(error) => return Err(not_run(error)),
        Ok(child) => child,
    };
    // The writing ends must be the program's alone, or the pipe never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let said = follow(reader, &child, log, watch);
    let status = child.wait().map_err(not_run)?;
    if watch.cancelled() {
        return Err(BuildError::Cancelled);
    }
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string(), said))
    }
}

/// Passes the output on until it ends, and ends the program when the watcher cancels.
fn follow(output: io::PipeReader, child: &Child, log: &Path, watch: &dyn BuildWatch) -> Said {
    let mut file = File::options().create(true).append(true).open(log).ok();
    let mut said = Said::default();
    let (sender, lines) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).trim().to_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        let mut is_ended = false;
        loop {
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.is_empty() => {}
                Ok(line) => {
                    if let Some(file) = &mut file {
                        let _ = writeln!(file, "{line}");
                    }
                    watch.line(&line);
                    said.add(line);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if watch.cancelled() && !is_ended {
                is_ended = true;
                let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            }
        }
    });
    said
}
