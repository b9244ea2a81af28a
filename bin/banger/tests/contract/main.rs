//! What the commands print: tables, errors and JSON, as they were reviewed. A stand-in answers for the daemon, so
//! that everything is the same each time. `cargo insta review` shows what a change does to them.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod completions;
#[path = "../../src/documented.rs"]
mod documented;
mod schema;
mod stand_in;
mod world;

use std::collections::BTreeSet;

use serde_json::Value;
use stand_in::{Answers, StandIn};

/// A name for the reviewed file.
fn file(args: &[&str]) -> String {
    let words = args.iter().map(|word| word.trim_start_matches('-'));
    words.collect::<Vec<_>>().join("_").replace(['/', ':'], "+")
}

fn review(prefix: &str, stand_in: &StandIn, cases: &[&[&str]]) {
    for args in cases {
        let name = format!("{prefix}_{}", file(args));
        insta::assert_snapshot!(name, stand_in.shown(args));
    }
}

/// Commands that only tell, and those whose end is a line or two.
const COMMANDS: &[&[&str]] = &[
    &["vm", "list"],
    &["vm", "show", "demo"],
    &["vm", "show", "broken"],
    &["vm", "show", "paused"],
    &["vm", "show", "spare"],
    &["vm", "stats"],
    &["vm", "stats", "demo"],
    &["vm", "ports", "demo"],
    &["vm", "create", "--name", "demo"],
    &["vm", "run", "-d", "--name", "demo"],
    &["vm", "start", "demo"],
    &["vm", "stop", "demo"],
    &["vm", "restart", "demo"],
    &["vm", "kill", "demo"],
    &["vm", "set", "spare", "--memory", "8G"],
    &["vm", "delete", "demo"],
    &["vm", "prune", "-f"],
    &["vm", "ssh-config"],
    &["image", "list"],
    &["image", "show", "tool"],
    &["image", "show", "mine"],
    &["image", "pull", "docker.io/library/tool:1"],
    &["image", "pull", "debian-bookworm"],
    &["image", "build", "debian-bookworm"],
    &[
        "image",
        "register",
        "--name",
        "mine",
        "--rootfs",
        "/srv/images/mine.ext4",
    ],
    &["image", "promote", "mine"],
    &["image", "delete", "tool"],
    &["kernel", "list"],
    &["kernel", "show", "generic-6.12"],
    &["kernel", "pull", "generic-6.12"],
    &["kernel", "import", "/srv/vmlinux"],
    &["kernel", "delete", "generic-6.12"],
    &["doctor"],
    &["daemon", "status"],
    &["daemon", "start"],
    &["daemon", "socket"],
    &["config", "show"],
    &["version"],
];

#[test]
fn tables_and_sentences() {
    review("text", &StandIn::new(world::answers()), COMMANDS);
    let logs: &[&str] = &["vm", "logs", "demo"];
    let images: &[&str] = &["image", "list", "--available"];
    let kernels: &[&str] = &["kernel", "list", "--available"];
    let stand_in = StandIn::new(world::answers());
    review("text", &stand_in, &[logs, images, kernels]);
}

#[test]
fn nothing_is_there_yet() {
    let cases: &[&[&str]] = &[
        &["vm", "list"],
        &["vm", "stats"],
        &["vm", "prune", "-f"],
        &["image", "list"],
        &["kernel", "list"],
    ];
    review("empty", &StandIn::new(world::empty()), cases);
}

/// JSON is the same with or without a terminal, is documented, and keeps to its schema.
#[test]
fn json_is_the_documented_one() {
    let stand_in = StandIn::new(world::answers());
    let documented = documented::commands();
    let schemas = schema::Schemas::load();
    for args in COMMANDS {
        let all: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let finished = stand_in.run(&all);
        insta::assert_snapshot!(format!("json_{}", file(args)), finished.stdout);
        let value: Value = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", finished.stdout));
        let command = args[..2.min(args.len())].join(" ");
        let what = documented.get(&command).or_else(|| documented.get(args[0]));
        let what = what.unwrap_or_else(|| panic!("{command} is not in docs/json.md"));
        match what.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((own, _)) => documented::assert_documented(own, &value),
            None => schemas.check(what.split('`').nth(1).unwrap(), &value),
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let stand_in = StandIn::new(world::answers());
    for args in [&["vm", "list"][..], &["vm", "list", "-o", "json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = stand_in.command(args).stdout(writer).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let full = std::fs::File::options().write(true).open("/dev/full");
        let output = stand_in.command(args).stdout(full.unwrap()).output();
        let said = String::from_utf8(output.unwrap().stderr).unwrap();
        assert!(said.contains("could not be written"), "{said}");
    }
}

#[test]
fn errors_and_their_exit_codes() {
    let stand_in = StandIn::new(world::answers());
    let cases: &[&[&str]] = &[
        &["vm", "show", "demu"],
        &["vm", "show", "demu", "-o", "json"],
        &["vm", "stop"],
        &["vm", "stop", "--all", "demo"],
        &["vm", "stop", "--all"],
        &["vm", "stop", "demo", "demu"],
        &["vm", "stop", "demo", "demu", "-o", "json"],
        &["vm", "set", "demo", "--memory", "8G"],
        &["vm", "delete", "spare"],
        &["vm", "delete", "spare", "-o", "json"],
        &["vm", "prune"],
        &["vm", "run"],
        &["vm", "create", "--name", "A_B"],
        &["vm", "create", "--no-start", "--env", "A=s3cret"],
        &["vm", "run", "--no-start", "--env", "A=s3cret"],
        &["vm", "create", "--env", "=s3cret"],
        &["vm", "lst"],
        &["vm", "create", "--memry", "1G"],
        &["image", "delete", "debian-bookworm"],
        &["image", "delete", "tool", "debian-bookworm"],
        &["image", "delete", "tool", "debian-bookworm", "-o", "json"],
    ];
    review("error", &stand_in, cases);
    let create: &[&str] = &["vm", "create", "--name", "broken"];
    let create_json: &[&str] = &["vm", "create", "--name", "broken", "-o", "json"];
    let run: &[&str] = &["vm", "run", "--name", "broken", "--", "true"];
    let failing = StandIn::new(world::failing());
    review("error", &failing, &[create, create_json, run]);
    review(
        "no_daemon",
        &StandIn::silent(),
        &[&["daemon", "status"], &["version"], &["daemon", "stop"]],
    );
    review(
        "nonsense",
        &StandIn::new(Answers::nonsense()),
        &[&["vm", "list"]],
    );
}

/// Nothing is sent from or taken into a repository that git does not trust, and what to do is said, whatever the language here.
#[test]
fn a_repository_of_another_user_is_told_apart() {
    let stand_in = StandIn::new(world::answers());
    let place = tempfile::tempdir().unwrap();
    let path = place.path().to_str().unwrap();
    let init = std::process::Command::new("git")
        .args(["init", "-q", path])
        .status();
    assert!(init.unwrap().success());
    for args in [
        &["vm", "workspace", "prepare", "demo", path][..],
        &["vm", "workspace", "pull", "demo", path],
        &["vm", "run", "-d", path],
    ] {
        let mut command = stand_in.command(args);
        // git's own tests have it so.
        command
            .env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
            .env("LC_ALL", "de_DE.UTF-8");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{args:?}");
        assert!(said.contains("dubious ownership"), "{args:?}: {said}");
        assert!(
            said.contains("safe.directory PATH` says that you trust it"),
            "{args:?}: {said}"
        );
    }
}

/// JSON errors are one shape, and it is the API's.
#[test]
fn json_errors_keep_to_their_schema() {
    let stand_in = StandIn::new(world::failing());
    let schemas = schema::Schemas::load();
    for args in [
        &["vm", "show", "demu"][..],
        &["vm", "create", "--name", "broken"],
        &["image", "delete", "debian-bookworm"],
        &["vm", "delete", "spare"],
        &["vm", "prune"],
    ] {
        let all: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let finished = stand_in.run(&all);
        assert_ne!(finished.code, 0, "{args:?}");
        assert_eq!(finished.stdout, "", "{args:?}");
        let error = serde_json::from_str(&finished.stderr);
        schemas.check(
            "ApiError",
            &error.unwrap_or_else(|_| panic!("{}", finished.stderr)),
        );
    }
}

/// Each command of the documented table either was run above, or says why it has no fixed answer.
#[test]
fn what_is_documented_is_tested() {
    let run: BTreeSet<String> = COMMANDS
        .iter()
        .map(|args| args[..2.min(args.len())].join(" "))
        .collect();
    for (command, what) in documented::commands() {
        let elsewhere = command.starts_with("vm session ")
            || command.starts_with("vm workspace ")
            || command.starts_with("system ")
            || command.starts_with("image catalog ")
            || ["bench create", "vm cp", "vm forward", "daemon stop"].contains(&command.as_str())
            || what.starts_with("nothing");
        assert!(elsewhere || run.contains(&command), "{command} ({what})");
    }
}
