//! `docs/tour.md`: its command lines are run, and each still ends as it is shown there. `BANGER_UPDATE=1` writes what
//! they print now below them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use banger_e2e::{Banger, until};

/// A command line, and what is shown below it.
struct Step {
    line: String,
    shown: String,
}

/// The document, cut into what stays and its steps.
enum Part {
    Text(String),
    Step(Step),
}

fn parts(document: &str) -> Vec<Part> {
    let mut parts = vec![];
    let mut inside = false;
    for line in document.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            if let Some(command) = line.strip_prefix("$ ") {
                let (line, shown) = (command.to_owned(), String::new());
                parts.push(Part::Step(Step { line, shown }));
            } else if let Some(Part::Step(step)) = parts.last_mut() {
                step.shown += &format!("{line}\n");
            } else {
                panic!("`{line}` belongs to no command");
            }
            continue;
        }
        parts.push(Part::Text(format!("{line}\n")));
    }
    parts
}

/// Nothing of this machine's.
fn cleaned(banger: &Banger, text: &str) -> String {
    let state = banger.state_dir().display().to_string();
    let mut text = text.replace(&state, "~/.local/state/banger");
    for (variable, place) in [("XDG_CONFIG_HOME", "~/.config"), ("HOME", "~")] {
        if let Ok(path) = std::env::var(variable) {
            text = text.replace(&path, place);
        }
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// What must not change from run to run: its words, without what is measured, in any order, as stages end when they do.
fn gist(text: &str) -> Vec<String> {
    let mut of_the_guest = false;
    let lines = text.lines().filter(|line| {
        // How far the guest's kernel came is another place each time.
        of_the_guest = match line.trim_start() {
            line if line.starts_with("caused by") => true,
            line if ["error:", "hint:", "(exit"]
                .iter()
                .any(|it| line.starts_with(it)) =>
            {
                false
            }
            _ => of_the_guest,
        };
        !of_the_guest
    });
    let words = lines.flat_map(str::split_whitespace);
    let plain = |word: &&str| {
        word.chars()
            .all(|c| c.is_ascii_alphabetic() || "[]_:-".contains(c))
    };
    let units = ["s", "B", "KiB", "MiB", "GiB", "m", "h"];
    let mut words: Vec<String> = words
        .filter(plain)
        .filter(|word| !units.contains(word) && *word != "-")
        .map(str::to_owned)
        .collect();
    words.sort_unstable();
    words
}

#[test]
fn the_tour_can_be_taken() {
    let banger = Banger::from_env();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tour.md");
    let document = fs::read_to_string(&path).unwrap();
    let mut written = String::new();
    let mut wrong = vec![];
    for part in parts(&document) {
        let Step { line, shown } = match part {
            Part::Text(text) => {
                written += &text;
                continue;
            }
            Part::Step(step) => step,
        };
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "banger", "{line}");
        if words[1..3] == ["vm", "ports"] {
            // What was started a moment ago listens a moment later.
            until("the web server listens", Duration::from_secs(120), || {
                banger.run(&words[1..]).stdout.contains("http://")
            });
        }
        let finished = banger.run(&words[1..]);
        let mut said = cleaned(&banger, &(finished.stderr.clone() + &finished.stdout));
        if finished.code != 0 {
            said += &format!("(exit code {})\n", finished.code);
        }
        // Nothing is shown below a line that was not recorded yet.
        if !shown.is_empty() && gist(&said) != gist(&shown) {
            wrong.push(format!("$ {line}\n{said}instead of\n{shown}"));
        }
        written += &format!("$ {line}\n{}\n", said.trim_end());
    }
    if std::env::var_os("BANGER_UPDATE").is_some() {
        fs::write(&path, written).unwrap();
        return;
    }
    for name in ["demo", "broken"] {
        let _ = banger.run(&["vm", "delete", "--force", name]);
    }
    assert!(
        wrong.is_empty(),
        "docs/tour.md shows something else:\n{}",
        wrong.join("\n")
    );
}
