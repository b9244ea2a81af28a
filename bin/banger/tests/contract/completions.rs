//! The scripts of `banger completion`, in the shells that they are for: they are read without complaint, and complete
//! verbs and the live names of a daemon that runs.

#![expect(clippy::print_stdout, reason = "what is skipped is told")]

use std::process::Stdio;

use crate::stand_in::{Finished, StandIn};
use crate::world;

/// A shell; in its programs `$1` is the script, and what follows the words of the line.
struct Shell {
    name: &'static str,
    /// What makes it read no settings of whoever runs the tests.
    plain: &'static [&'static str],
    /// Asks what it offers for the last of the words.
    asks: &'static str,
}

const SHELLS: [Shell; 3] = [
    Shell {
        name: "bash",
        plain: &["--noprofile", "--norc"],
        asks: r#"source "$1"; shift
            registered=$(complete -p banger); function=${registered#* -F }; function=${function%% *}
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
            "$function" banger "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}""#,
    },
    Shell {
        name: "zsh",
        plain: &["-f"],
        // What the completion system would show is printed.
        asks: r#"autoload -Uz compinit && compinit -D -u
            source "$1"; shift
            _describe() { print -rl -- "${(@P)3}" }
            words=("$@"); CURRENT=$#
            "$_comps[banger]""#,
    },
    Shell {
        name: "fish",
        plain: &["--no-config"],
        asks: r#"source $argv[1]; complete -C "$argv[2..-1]""#,
    },
];

impl Shell {
    fn is_there(&self) -> bool {
        let here = std::env::split_paths("/usr/local/bin:/usr/bin:/bin")
            .any(|folder| folder.join(self.name).is_file());
        if !here {
            println!(
                "SKIPPED (completion in {0}): there is no {0}; scripts/setup installs it",
                self.name
            );
        }
        here
    }

    /// Runs it in the stand-in's world.
    fn run(&self, stand_in: &StandIn, args: &[&str]) -> Finished {
        let mut command = stand_in.program(self.name);
        command.args(self.plain).args(args).stdin(Stdio::null());
        stand_in.finish(command)
    }

    /// The script, as a file in that world.
    fn script(&self, stand_in: &StandIn) -> String {
        let made = stand_in
            .command(&["completion", self.name])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let path = stand_in.path(&format!("completion.{}", self.name));
        std::fs::write(&path, made.stdout).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    /// What it offers for the last word of the line: the values alone.
    fn offers(&self, stand_in: &StandIn, line: &str) -> Vec<String> {
        let script = self.script(stand_in);
        let mut args = vec!["-c", self.asks];
        if self.name != "fish" {
            args.push(self.name);
        }
        args.push(&script);
        args.extend(line.split(' '));
        let said = self.run(stand_in, &args);
        assert_eq!(said.stderr, "", "{} {line}", self.name);
        let lines = said.stdout.lines().filter(|line| !line.is_empty());
        lines.map(value).collect()
    }
}

/// Without its description, and the colon after a VM's name that a path follows (which zsh has escaped).
fn value(line: &str) -> String {
    let value = line.split(['\t', ':']).next().unwrap_or_default();
    value.trim_end_matches('\\').to_owned()
}

#[test]
fn the_scripts_are_valid() {
    let stand_in = StandIn::silent();
    for shell in SHELLS.iter().filter(|shell| shell.is_there()) {
        let script = shell.script(&stand_in);
        let said = shell.run(&stand_in, &["-n", &script]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{}", shell.name);
    }
}

#[test]
fn verbs_and_live_names_are_completed() {
    let stand_in = StandIn::new(world::answers());
    for shell in SHELLS.iter().filter(|shell| shell.is_there()) {
        for (line, offered) in [
            ("banger vm sh", &["show"][..]),
            ("banger vm show de", &["demo"]),
            ("banger vm stop demo id", &["idle"]),
            ("banger vm cp sp", &["spare"]),
            ("banger image show to", &["tool"]),
            ("banger kernel show debian", &["debian-cloud"]),
            ("banger vm run --image mi", &["mine"]),
            ("banger vm show nobody", &[]),
        ] {
            let said = shell.offers(&stand_in, line);
            assert_eq!(said, offered, "{}: {line}", shell.name);
        }
        let mut all = shell.offers(&stand_in, "banger vm delete ");
        all.retain(|offered| !offered.starts_with('-'));
        assert_eq!(
            all,
            ["broken", "demo", "idle", "paused", "spare"],
            "{}",
            shell.name
        );
    }
}

#[test]
fn with_the_daemon_down_nothing_is_offered_said_or_started() {
    let stand_in = StandIn::silent();
    for shell in SHELLS.iter().filter(|shell| shell.is_there()) {
        let none: [&str; 0] = [];
        assert_eq!(
            shell.offers(&stand_in, "banger vm show de"),
            none,
            "{}",
            shell.name
        );
    }
    assert!(!stand_in.path("run").exists(), "something was started");
}
