//! Bad input: a clear error, the right exit code, nothing changed and nothing left.

use banger_e2e::Banger;

#[test]
fn each_mistake_has_its_message_and_exit_code() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let taken: &[&str] = &["vm", "create", "--name", &vm.name];
    let cases: &[(&[&str], i32, &str)] = &[
        (&["vm", "show", "no-such-vm"], 4, "no-such-vm"),
        (
            &["vm", "create", "--image", "debian-bokworm"],
            4,
            "debian-bookworm",
        ),
        (
            &["vm", "create", "--kernel", "no-such-kernel"],
            4,
            "no-such-kernel",
        ),
        (&["vm", "create", "--name", "Not_A_Label"], 2, "Not_A_Label"),
        (&["vm", "create", "--name", "../x"], 2, "VM name"),
        (taken, 5, &vm.name),
        (&["vm", "create", "--memory", "0"], 2, "memory"),
        (&["vm", "create", "--memory=-5"], 2, "negative"),
        (&["vm", "create", "--memory", "900T"], 2, "memory"),
        (&["vm", "create", "--vcpu", "0"], 2, "vCPU"),
        (&["vm", "create", "--vcpu", "4000"], 2, "vCPU"),
        (&["vm", "create", "--disk-size", "0"], 2, "work disk"),
        (&["vm", "create", "--disk-size", "99999T"], 2, "work disk"),
        (&["kernel", "import", "/etc/passwd"], 1, "kernel"),
        (
            &["vm", "exec", "no-such-vm", "--", "true"],
            125,
            "no-such-vm",
        ),
        (&["vm", "exec", &vm.name, "--", "true"], 125, "not run"),
        (&["vm", "nonsense"], 2, "nonsense"),
    ];
    for (args, code, says) in cases {
        let finished = banger.run(args);
        assert_eq!(finished.code, *code, "{args:?}: {}", finished.stderr);
        let said = finished.stderr.to_lowercase();
        assert!(
            said.contains(&says.to_lowercase()),
            "{args:?} should say `{says}`: {}",
            finished.stderr
        );
    }
    assert_eq!(
        banger.json(&["vm", "list"])["vms"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn two_creates_with_one_name_make_one_vm() {
    let banger = Banger::from_env();
    let args = [
        "vm",
        "create",
        "--no-start",
        "--image",
        "debian-minimal",
        "--name",
        "twin",
    ];
    let both = [banger.spawn(&args), banger.spawn(&args)];
    let mut codes: Vec<_> = both
        .map(|child| child.wait_with_output().unwrap().status.code())
        .into_iter()
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(5)]);
    banger.ok(&["vm", "delete", "twin"]);
}
