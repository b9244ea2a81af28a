//! The only place that prints.
#![expect(clippy::print_stderr, reason = "this is what the others print with")]

use std::io::{IsTerminal, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use banger_api::{Stage, StageState};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::CommandError;

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Text,
    /// A stable contract for programs.
    Json,
}

/// Writes a line to standard output. A reader that has gone (`banger vm list | head -1`) has what it wanted.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("warning: the result could not be written: {error}");
        }
        _ => {}
    }
}

/// Where results and messages go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ui {
    output: Output,
}

impl Ui {
    pub(crate) const fn new(output: Output) -> Self {
        Self { output }
    }

    pub(crate) const fn is_json(&self) -> bool {
        matches!(self.output, Output::Json)
    }

    /// A result: as JSON, or as what `text` makes of it.
    pub(crate) fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        match self.output {
            Output::Json => say(&serde_json::to_string_pretty(value).unwrap_or_default()),
            Output::Text => {
                let text = text(value);
                if !text.is_empty() {
                    say(text.trim_end());
                }
            }
        }
    }

    /// A line for people beside the result.
    pub(crate) fn note(&self, line: &str) {
        if !self.is_json() {
            eprintln!("{line}");
        }
    }

    /// Asks for a yes on the terminal; anything else is a no.
    pub(crate) fn confirm(&self, question: &str) -> std::io::Result<bool> {
        eprint!("{question} [y/N] ");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        let answer = answer.trim().to_ascii_lowercase();
        Ok(matches!(answer.as_str(), "y" | "yes"))
    }

    /// Asks for a word that is not shown.
    ///
    /// # Errors
    /// There is no terminal.
    pub(crate) fn secret(&self, question: &str) -> std::io::Result<String> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let terminal = std::io::stdin();
        let shown = tcgetattr(&terminal)?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        eprint!("{question}");
        let mut answer = String::new();
        let read = terminal.read_line(&mut answer);
        tcsetattr(&terminal, OptionalActions::Now, &shown)?;
        eprintln!();
        read.map(|_| answer.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// What did not work and can be lived without.
    pub(crate) fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
    }

    /// Bytes of a result, as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> std::io::Result<()> {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// Shows stages as they come.
    pub(crate) fn stages(&self) -> Stages {
        let live = std::io::stderr().is_terminal() && !self.is_json();
        Stages {
            live,
            quiet: self.is_json(),
            bar: None,
        }
    }

    /// Says why a command failed, and gives its exit code.
    pub(crate) fn fail(&self, error: &CommandError, own_code: Option<u8>) -> ExitCode {
        let api = &error.0;
        if self.is_json() {
            eprintln!("{}", serde_json::to_string_pretty(api).unwrap_or_default());
        } else {
            eprintln!("error: {} [{}]", api.message, api.code.as_str());
            for cause in &api.causes {
                eprintln!("  caused by: {cause}");
            }
            for hint in &api.hints {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(own_code.unwrap_or(api.code.exit_code() as u8))
    }
}

/// Live stages on a terminal, a line for each elsewhere.
#[derive(Debug)]
pub(crate) struct Stages {
    live: bool,
    quiet: bool,
    bar: Option<(String, ProgressBar)>,
}

impl Stages {
    /// A stage began, moved or ended.
    pub(crate) fn show(&mut self, stage: &Stage) {
        if self.quiet {
            return;
        }
        match stage.state {
            StageState::Running if self.live => self.spin(stage),
            StageState::Running => {}
            StageState::Done | StageState::Failed => {
                self.clear();
                let mark = if stage.state == StageState::Done {
                    "✓"
                } else {
                    "✗"
                };
                let seconds = Duration::from_millis(stage.elapsed_ms).as_secs_f64();
                eprintln!("{mark} {:<28} {seconds:>7.2} s", stage.title);
            }
        }
    }

    fn spin(&mut self, stage: &Stage) {
        if self.bar.as_ref().is_none_or(|(key, _)| *key != stage.key) {
            self.clear();
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix:28} {elapsed:>8} {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(stage.title.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            self.bar = Some((stage.key.clone(), bar));
        }
        if let (Some((_, bar)), Some(detail)) = (&self.bar, &stage.detail) {
            bar.set_message(detail.clone());
        }
    }

    /// Takes the live line away, before anything else is written.
    pub(crate) fn clear(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
