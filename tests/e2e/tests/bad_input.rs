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
        (&["vm", "create", "--memory", "lots"], 2, "lots"),
        (&["vm", "create", "--memory", "1"], 2, "memory"),
        (&["vm", "create", "--vcpu", "0"], 2, "vCPU"),
        (&["vm", "create", "--vcpu=-2"], 2, "-2"),
        (&["vm", "create", "--vcpu", "4000"], 2, "vCPU"),
        (&["vm", "create", "--disk-size", "0"], 2, "work disk"),
        (&["vm", "create", "--disk-size=-1G"], 2, "-1G"),
        (&["vm", "create", "--disk-size", "1M"], 2, "work disk"),
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
fn the_nearest_name_is_suggested() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--no-start", "--image", "debian-minimal"]);
    let kernels = banger.json(&["kernel", "list"]);
    let kernel = kernels["kernels"][0]["name"].as_str().unwrap();
    let near = |name: &str| format!("{}x", &name[..name.len() - 1]);
    let cases = [
        (["vm", "show"], near(&vm.name), vm.name.as_str()),
        (["vm", "delete"], near(&vm.name), &vm.name),
        (["kernel", "show"], near(kernel), kernel),
        (["image", "show"], "debian-minimol".into(), "debian-minimal"),
    ];
    for (verb, wrong, right) in cases {
        let finished = banger.run(&[verb[0], verb[1], &wrong]);
        assert_eq!(finished.code, 4, "{}", finished.stderr);
        let hint = format!("hint: did you mean `{right}`?");
        assert!(finished.stderr.contains(&hint), "{}", finished.stderr);
    }
}

#[test]
fn what_is_no_kernel_for_this_machine_is_refused_and_leaves_nothing() {
    let banger = Banger::from_env();
    let before = banger.ok(&["kernel", "list"]);
    let default = banger.json(&["kernel", "list"])["kernels"][0]["vmlinux"].clone();
    let whole = std::fs::read(default.as_str().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // e_machine is at 18, the class at 4 (elf(5)).
    let mut for_arm = whole.clone();
    for_arm[18..20].copy_from_slice(&183_u16.to_le_bytes());
    let mut of_32_bits = whole.clone();
    of_32_bits[4] = 1;
    let cases = [
        ("half", &whole[..whole.len() / 2], "truncated"),
        ("head", &whole[..40], "kernel"),
        ("empty", &[], "neither"),
        ("text", b"root:x:0:0", "neither"),
        ("arm", &for_arm, "another processor"),
        ("class", &of_32_bits, "64-bit"),
    ];
    for (name, bytes, says) in cases {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let finished = banger.run(&["kernel", "import", path, "--name", "bad"]);
        finished.assert_failed(name, 1, &["[invalid_kernel]", path, says]);
    }
    let finished = banger.run(&["kernel", "import", "/no/such/file"]);
    assert_eq!(finished.code, 1, "{}", finished.stderr);
    assert_eq!(banger.ok(&["kernel", "list"]), before);
    let names = std::fs::read_dir(banger.state_dir().join("kernels")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names
        // The store's turn file stays.
        .filter(|name| name != ".turn")
        .filter(|name| name.to_string_lossy().starts_with('.') || name == "bad")
        .collect();
    assert!(left.is_empty(), "{left:?}");
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
