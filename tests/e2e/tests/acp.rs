//! `vm acp`: an editor talks with an agent in a real guest through its standard streams.

use std::io::Write;

use banger_e2e::{Banger, Client, SMALL};

/// What answers each line with where it runs.
const AGENT: &str = r#"#!/bin/sh
echo "starting $*" >&2
while read -r line; do printf '%s %s %s\n' "$PWD" "$*" "$line"; done
exit 7
"#;

#[test]
fn an_editor_hears_the_agent_and_nothing_else() {
    let banger = Banger::from_env();
    let vm = banger.vm(SMALL);
    let acp = ["vm", "acp", &vm.name];
    let missing = banger.run(&acp);
    missing.assert_failed("no agent", 127, &["opencode", "--"]);
    assert_eq!(missing.stdout, "");

    vm.sh("mkdir -p /usr/local/bin");
    let put = banger.run_with_stdin(
        &[
            "vm",
            "cp",
            "-",
            &format!("{}:/usr/local/bin/opencode", vm.name),
        ],
        AGENT.as_bytes(),
    );
    assert_eq!(put.code, 0, "{}", put.stderr);
    vm.sh("chmod 755 /usr/local/bin/opencode");
    let mut editor = Client::start(&banger, &acp);
    editor.say(b"{\"id\":1}\n");
    assert_eq!(editor.hear("\n"), "/root acp {\"id\":1}\n");
    // A conversation goes on without the daemon.
    banger.kill_daemon();
    editor.say(b"{\"id\":2}\n");
    assert_eq!(editor.hear("\n"), "/root acp {\"id\":2}\n");
    let ended = editor.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (7, ""));
    assert_eq!(ended.stderr, "starting acp\n");

    vm.sh("mkdir /root/repo /root/other");
    let line = b"x\n";
    let in_repo = banger.run_with_stdin(&acp, line);
    assert_eq!(
        (in_repo.code, in_repo.stdout.as_str()),
        (7, "/root/repo acp x\n")
    );
    let elsewhere = [&acp[..], &["--cwd", "/root/other", "-o", "json"]].concat();
    let elsewhere = banger.run_with_stdin(&elsewhere, line);
    assert_eq!(elsewhere.stdout, "/root/other acp x\n");
    let nowhere = banger.run(&[&acp[..], &["--cwd", "/no/such"]].concat());
    nowhere.assert_failed("no folder", 125, &["/no/such"]);
    assert_eq!(nowhere.stdout, "");
    let nobody = banger.run(&["vm", "acp", "no-such-vm"]);
    nobody.assert_failed("no VM", 125, &["no-such-vm"]);
    assert_eq!(nobody.stdout, "");

    // Any bytes, as many as there are, and an agent that dies.
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|n| n.wrapping_mul(n).to_le_bytes()[1])
        .collect();
    let mut cat = Client::start(&banger, &[&acp[..], &["--", "cat"]].concat());
    let (mut input, sent) = (cat.take_input(), bytes.clone());
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let (heard, ended) = cat.end_with_bytes();
    assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert!(writer.join().expect("joins").is_ok());
    let dies = banger.run(&[&acp[..], &["--", "sh", "-c", "kill -9 $$"]].concat());
    assert_eq!((dies.code, dies.stdout.as_str()), (137, ""));
}
