//! `vm ports`: sockets of a real guest, seen and knocked at from the host.

use std::time::Duration;

use banger_e2e::{Banger, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// The row of a port, once it is there and `done` says so.
fn wait_for(banger: &Banger, vm: &str, port: u64, done: impl Fn(&Value) -> bool) -> Value {
    let mut row = Value::Null;
    until(&format!("port {port} is listed"), PATIENCE, || {
        let list = banger.json(&["vm", "ports", vm]);
        let ports = list["ports"].as_array().cloned().unwrap_or_default();
        let found = ports.into_iter().find(|it| it["port"] == port);
        row = found.unwrap_or_default();
        row != Value::Null && done(&row)
    });
    row
}

#[test]
fn listeners_have_process_owner_address_and_url() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--wait", "reachable"]);
    vm.sh("cd /tmp && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
           -keyout k.pem -out c.pem -days 9 -subj /CN=x 2>/dev/null; \
           setsid sh -c 'python3 -m http.server 8080 & python3 -m http.server 9090 --bind 127.0.0.1 & \
           openssl s_server -accept 8443 -key k.pem -cert c.pem -www & \
           python3 -c \"import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((\\\"0.0.0.0\\\",5353)); time.sleep(999)\" &' \
           >/dev/null 2>&1 </dev/null; \
           setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c \
           'cd / && exec setsid python3 -c \"import socket,time; s=socket.create_server((\\\"\\\",7777)); time.sleep(999)\" >/dev/null 2>&1 </dev/null' &");
    let address = vm.show()["address"].as_str().unwrap().to_owned();

    let web = wait_for(&banger, &vm.name, 8080, |row| row["url"] != Value::Null);
    assert_eq!(web["url"], format!("http://{}.vm:8080/", vm.name));
    assert_eq!(web["http_status"], 200);
    assert_eq!(web["address"], format!("{address}:8080"));
    assert_eq!(web["process"], "python3");
    assert_eq!(web["user"], "root");

    let tls = wait_for(&banger, &vm.name, 8443, |row| row["url"] != Value::Null);
    assert_eq!(tls["url"], format!("https://{}.vm:8443/", vm.name));
    assert_eq!(tls["process"], "openssl");

    let inside = wait_for(&banger, &vm.name, 9090, |_| true);
    assert_eq!(inside["address"], Value::Null);
    assert_eq!(inside["url"], Value::Null);

    let udp = wait_for(&banger, &vm.name, 5353, |_| true);
    assert_eq!(udp["protocol"], "udp");
    assert_eq!(udp["address"], format!("{address}:5353"));

    // One that takes connections and says nothing, of another user.
    let silent = wait_for(&banger, &vm.name, 7777, |_| true);
    assert_eq!(silent["user"], "nobody");
    assert_eq!(silent["url"], Value::Null);

    let text = banger.ok(&["vm", "ports", &vm.name]);
    assert!(
        text.contains(&format!("http://{}.vm:8080/", vm.name)),
        "{text}"
    );
    assert!(text.contains("guest only (127.0.0.1)"), "{text}");
}

#[test]
fn an_image_without_any_tool_lists_its_ports_and_a_stopped_vm_says_what_to_do() {
    let banger = Banger::from_env();
    let vm = banger.vm(&["--image", "debian-minimal"]);
    let list = banger.json(&["vm", "ports", &vm.name]);
    assert_eq!(list["vm"], vm.name.as_str());
    assert!(list["ports"].is_array());
    banger.ok(&["vm", "stop", &vm.name]);
    let stopped = banger.run(&["vm", "ports", &vm.name]);
    stopped.assert_failed("stopped", 5, &["does not run", "banger vm start"]);
    let unknown = banger.run(&["vm", "ports", "no-such-vm"]);
    unknown.assert_failed("unknown", 4, &["there is no VM"]);
}
