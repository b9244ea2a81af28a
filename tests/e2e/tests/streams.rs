//! Streams into and out of a guest: much data, nobody reading, terminals.

use std::io::{Read, Write};
use std::time::Duration;

use banger_e2e::{Banger, Terminal};
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;
const TOTAL: usize = 256 * MIB;

/// Bytes that no two blocks share.
fn block(number: usize) -> Vec<u8> {
    let seed: [u8; 32] = Sha256::digest(number.to_le_bytes()).into();
    let words = (0_u64..).flat_map(|word| {
        let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let own = u64::from_le_bytes(seed[..8].try_into().unwrap_or_default());
        (mixed ^ own).to_le_bytes()
    });
    words.take(MIB).collect()
}

#[test]
fn much_goes_both_ways_beside_a_stream_that_nobody_reads() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable", "--image", "debian-minimal"]);

    // Without end, and its reader never comes.
    let mut stalled = banger.spawn(&["vm", "exec", &vm.name, "--", "cat", "/dev/zero"]);
    let mut first = [0; 1];
    stalled
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();

    let mut echo = banger.spawn(&["vm", "exec", "-i", &vm.name, "--", "cat"]);
    let mut stdin = echo.stdin.take().unwrap();
    let mut stdout = echo.stdout.take().unwrap();
    let writer = std::thread::spawn(move || {
        let mut digest = Sha256::new();
        for number in 0..TOTAL / MIB {
            let block = block(number);
            digest.update(&block);
            stdin.write_all(&block).unwrap();
        }
        digest.finalize()
    });
    let (mut digest, mut count) = (Sha256::new(), 0);
    let mut buffer = vec![0; MIB];
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        count += read;
    }
    assert_eq!(count, TOTAL);
    assert_eq!(digest.finalize(), writer.join().unwrap());
    assert!(echo.wait().unwrap().success());

    // The stalled one neither ended nor grew: what it holds back is in the guest.
    assert!(stalled.try_wait().unwrap().is_none());
    let status = std::fs::read_to_string(format!("/proc/{}/status", stalled.id())).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: usize = resident.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 64 << 10, "the stalled client holds {kib} KiB");
    stalled.kill().unwrap();
    stalled.wait().unwrap();
    assert_eq!(vm.sh("echo fine"), "fine");
}

#[test]
fn a_shell_on_a_terminal_knows_ctrl_c_its_size_and_its_end() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    let command = banger.command(&["vm", "exec", "-it", &vm.name, "--", "bash", "--norc"]);
    let mut terminal = Terminal::start(&command, 31, 97);
    terminal.type_in("PS1='>''>'; stty size; tty\r");
    let said = terminal.expect(">>", PATIENCE);
    assert!(said.contains("31 97"), "{said}");
    assert!(said.contains("/dev/pts/"), "{said}");

    terminal.resize(40, 120);
    terminal.type_in("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo re''sized\r");
    terminal.expect("resized", PATIENCE);
    terminal.expect(">>", PATIENCE);

    terminal.type_in("sh -c 'echo in the fore''ground; exec sleep 1000'; echo no''t here\r");
    terminal.expect("in the foreground", PATIENCE);
    terminal.type_in("\u{3}");
    terminal.expect(">>", PATIENCE);
    terminal.type_in("echo sta''tus $?\r");
    let said = terminal.expect("status 130", PATIENCE);
    assert!(!said.contains("not here"), "{said}");

    terminal.type_in("exit 5\r");
    assert_eq!(terminal.wait(), 5);
}

#[test]
fn a_bare_run_is_a_shell_and_leaves_the_vm_running() {
    let banger = Banger::from_env();
    let name = format!("bare-{}", std::process::id());
    let command = banger.command(&["vm", "run", "--name", &name]);
    let mut terminal = Terminal::start(&command, 24, 80);
    terminal.expect("# ", PATIENCE);
    terminal.type_in("echo in $(hostname), $-\r");
    terminal.expect(&format!("in {name}, "), PATIENCE);
    terminal.type_in("exit\r");
    terminal.expect("still runs", PATIENCE);
    assert_eq!(terminal.wait(), 0);
    assert_eq!(banger.json(&["vm", "show", &name])["phase"], "running");
    banger.ok(&["vm", "delete", &name]);

    let piped = banger.run(&["vm", "run"]);
    assert_eq!(piped.code, 2, "{}", piped.stderr);
    assert!(piped.stderr.contains("no terminal"), "{}", piped.stderr);
}
