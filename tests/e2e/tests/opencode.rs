//! The default service: where an image carries opencode, it is served on port 4096, and a VM is ready when it answers.

use banger_e2e::Banger;

/// In opencode's place, as its server is called, and late: `serve --hostname 0.0.0.0 --port 4096`.
const STAND_IN: &str = "#!/bin/sh\n[ \"$1 $3 $5\" = 'serve 0.0.0.0 4096' ] || exit 64\nsleep 3\n\
                        exec python3 -m http.server --bind \"$3\" \"$5\"\n";

#[test]
fn a_vm_is_ready_when_the_images_opencode_serves_and_without_it_nothing_waits() {
    let banger = Banger::from_env();
    let vm = banger.vm(&[]);
    let listed = |port: u64| {
        let ports = banger.json(&["vm", "ports", &vm.name]);
        let ports = ports["ports"].as_array().cloned().unwrap_or_default();
        ports
            .iter()
            .any(|entry| entry["port"].as_u64() == Some(port))
    };
    assert!(!listed(4096), "somebody listens already");
    let install = "cat > /usr/local/bin/opencode && chmod 755 /usr/local/bin/opencode && sync";
    let put = ["vm", "exec", &vm.name, "--", "sh", "-c", install];
    let done = banger.run_with_stdin(&put, STAND_IN.as_bytes());
    assert_eq!(done.code, 0, "{}", done.stderr);
    banger.ok(&["vm", "restart", "--wait", "ready", &vm.name]);
    // Asked once: it is there by now.
    assert!(listed(4096), "ready, and opencode does not serve");
    let unit = vm.sh("systemctl show -p WorkingDirectory -p FragmentPath opencode");
    assert_eq!(
        unit,
        "WorkingDirectory=/root\nFragmentPath=/run/systemd/system/opencode.service"
    );

    // Who does not want it says so as for any service.
    vm.sh("systemctl mask opencode && sync");
    banger.ok(&["vm", "restart", "--wait", "ready", &vm.name]);
    assert!(!listed(4096), "it is masked");
}
