//! Catalogs: one made of what is here, and taken by a banger that has nothing, from a folder and from a server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use banger_e2e::{Banger, Elsewhere, Finished};
use serde_json::Value;

const NETWORK: &str =
    "bridge_name = \"cat0\"\nbridge_ip = \"172.31.11.1\"\ncidr = \"172.31.11.0/24\"\n";

/// A banger that has nothing yet, and a catalog of the small image and its kernel.
struct Taker {
    elsewhere: Elsewhere,
    folder: PathBuf,
    key: String,
}

fn json(finished: &Finished) -> Value {
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    serde_json::from_str(&finished.stdout).unwrap()
}

impl Taker {
    fn new() -> Self {
        let maker = Banger::from_env();
        let elsewhere = Elsewhere::new();
        let folder = elsewhere.path("catalog");
        let shown = folder.to_str().unwrap();
        let built = [
            "image",
            "catalog",
            "build",
            shown,
            "--image",
            "debian-minimal",
        ];
        let built = maker.json(&built);
        assert_eq!(built["images"][0], "debian-minimal");
        assert_eq!(built["kernels"].as_array().map(Vec::len), Some(1));
        let key = Self::publish(&elsewhere, &folder);
        Self {
            elsewhere,
            folder,
            key,
        }
    }

    /// Signs it, with the key that the first time is made.
    fn publish(elsewhere: &Elsewhere, folder: &Path) -> String {
        let folder = folder.to_str().unwrap();
        let published = elsewhere.run(&["image", "catalog", "publish", folder, "-o", "json"]);
        let key = json(&published)["public_key"].as_str().unwrap().to_owned();
        assert!(key.starts_with("RW"), "{key}");
        key
    }

    /// Has it take from there, from its next start on.
    fn configure(&self, location: &str, key: &str) {
        let text =
            format!("{NETWORK}[catalog]\nlocation = \"{location}\"\npublic_key = \"{key}\"\n");
        fs::write(self.elsewhere.path("config/banger/config.toml"), text).unwrap();
        let _ = self.elsewhere.run(&["daemon", "stop"]);
    }

    fn run(&self, args: &[&str]) -> Finished {
        self.elsewhere.run(args)
    }

    fn names(&self, of: &str) -> usize {
        let list = json(&self.run(&[of, "list", "-o", "json"]));
        list[format!("{of}s")].as_array().unwrap().len()
    }

    /// Boots what was taken.
    fn boots(&self) {
        let finished = self.run(&[
            "vm",
            "run",
            "--rm",
            "--wait",
            "reachable",
            "--memory",
            "256",
            "--image",
            "debian-minimal",
            "--",
            "sh",
            "-c",
            "echo it boots; exit 7",
        ]);
        let said = (finished.code, finished.stdout.as_str());
        assert_eq!(said, (7, "it boots\n"), "{}", finished.stderr);
    }
}

/// Serves a folder until the process ends.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let folder = folder.clone();
            std::thread::spawn(move || answer(stream, &folder));
        }
    });
    host
}

fn answer(mut stream: TcpStream, folder: &Path) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/');
    let (status, body) = match fs::read(folder.join(path)) {
        Ok(body) => ("200 OK", body),
        Err(_) => ("404 Not Found", vec![]),
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

#[test]
fn an_image_and_its_kernel_come_from_a_folder_and_boot() {
    let taker = Taker::new();
    taker.configure(taker.folder.to_str().unwrap(), &taker.key);
    let available = json(&taker.run(&["image", "list", "--available", "-o", "json"]));
    let available = &available["images"];
    assert_eq!(available[0]["name"], "debian-minimal");
    assert_eq!(available[0]["state"], "absent");
    let kernel = available[0]["kernel"].as_str().unwrap().to_owned();
    let kernels = json(&taker.run(&["kernel", "list", "--available", "-o", "json"]));
    assert_eq!(kernels["kernels"][0]["name"], kernel.as_str());
    assert_eq!((taker.names("image"), taker.names("kernel")), (0, 0));

    let pulled = json(&taker.run(&["image", "pull", "debian-minimal", "-o", "json"]));
    assert_eq!(pulled["origin"], "pulled");
    assert_eq!(pulled["catalog"], taker.folder.to_str().unwrap());
    assert_eq!(pulled["digest"], available[0]["digest"]);
    assert_eq!(pulled["kernel"], kernel.as_str());
    let maker = Banger::from_env().json(&["image", "show", "debian-minimal"]);
    assert_eq!(pulled["digest"], maker["digest"]);
    assert_eq!(pulled["size"], maker["size"]);
    let used = |image: &Value| image["disk_usage"].as_u64().unwrap();
    assert!(
        used(&pulled) <= used(&maker) + (1 << 20),
        "holes stay holes"
    );
    taker.boots();

    // Under another name too; the kernel goes with the last image that came with it.
    let other = taker.run(&["image", "pull", "debian-minimal", "--name", "second"]);
    assert_eq!(other.code, 0, "{}", other.stderr);
    let in_use = taker.run(&["kernel", "delete", &kernel]);
    in_use.assert_failed(
        "a kernel that images ask for",
        5,
        &["debian-minimal", "second"],
    );
    for (name, left) in [("second", 1), ("debian-minimal", 0)] {
        let deleted = taker.run(&["image", "delete", name]);
        assert_eq!(deleted.code, 0, "{}", deleted.stderr);
        assert_eq!(taker.names("kernel"), left, "{name}");
    }
    let alone = json(&taker.run(&["kernel", "pull", &kernel, "-o", "json"]));
    assert_eq!(alone["name"], kernel.as_str());
    let deleted = taker.run(&["kernel", "delete", &kernel]);
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    assert_eq!(taker.names("kernel"), 0);
}

#[test]
fn a_vm_takes_what_is_missing_from_a_server_on_its_way() {
    let taker = Taker::new();
    let host = serve(taker.folder.clone());
    taker.configure(&format!("http://{host}"), &taker.key);
    taker.boots();
    assert_eq!((taker.names("image"), taker.names("kernel")), (1, 1));
    let image = json(&taker.run(&["image", "show", "debian-minimal", "-o", "json"]));
    assert_eq!(image["catalog"], format!("http://{host}"));
    let left = fs::read_dir(taker.elsewhere.state_dir().join("catalog/blobs")).unwrap();
    assert_eq!(left.count(), 0, "what was unpacked is not kept twice");
    // What is here is the catalog's: another pull fetches nothing.
    let again = taker.run(&["image", "pull", "debian-minimal"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let unknown = taker.run(&["vm", "create", "--image", "nowhere"]);
    unknown.assert_failed("an image that is nowhere", 4, &["image_not_found"]);
    let unknown = taker.run(&["image", "pull", "nowhere"]);
    unknown.assert_failed("an image that is nowhere", 4, &["nowhere", "--available"]);
    let unknown = taker.run(&["kernel", "pull", "nowhere"]);
    unknown.assert_failed("a kernel that is nowhere", 4, &["kernel_not_found"]);
}

#[test]
fn nothing_comes_of_a_catalog_that_is_not_its_makers() {
    let taker = Taker::new();
    let folder = taker.folder.to_str().unwrap();
    let index = taker.folder.join("index.json");
    let right = fs::read_to_string(&index).unwrap();

    fs::write(&index, right.replace("debian-minimal", "debian-mini")).unwrap();
    taker.configure(folder, &taker.key);
    let pull = ["image", "pull", "debian-mini"];
    taker
        .run(&pull)
        .assert_failed("a changed index", 1, &["[catalog_failed]", "signature"]);
    // A recipe of that name is no way around it.
    let pull = ["image", "pull", "debian-minimal"];
    taker
        .run(&pull)
        .assert_failed("a changed index", 1, &["[catalog_failed]", "signature"]);
    let run = ["vm", "create", "--image", "debian-minimal"];
    taker
        .run(&run)
        .assert_failed("a changed index", 1, &["[catalog_failed]"]);
    let _ = taker.run(&["vm", "prune", "-f"]);
    fs::write(&index, &right).unwrap();

    let stranger = Elsewhere::new();
    let other = Taker::publish(&stranger, &taker.folder);
    taker
        .run(&pull)
        .assert_failed("another key", 1, &["another key", "hint: "]);
    taker.configure(folder, &other);
    let listed = taker.run(&["image", "list", "--available"]);
    assert_eq!(listed.code, 0, "the key was changed: {}", listed.stderr);

    fs::remove_file(taker.folder.join("index.json.minisig")).unwrap();
    taker
        .run(&pull)
        .assert_failed("no signature", 1, &["index.json.minisig"]);
    Taker::publish(&stranger, &taker.folder);
    for blob in fs::read_dir(taker.folder.join("blobs")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    taker
        .run(&pull)
        .assert_failed("changed files", 1, &["[catalog_failed]", "sha256"]);
    taker.configure("http://127.0.0.1:9", &other);
    let listed = taker.run(&["image", "list", "--available"]);
    listed.assert_failed(
        "nobody there",
        1,
        &["cannot be reached", "catalog.location"],
    );
    assert_eq!((taker.names("image"), taker.names("kernel")), (0, 0));
    let left = fs::read_dir(taker.elsewhere.state_dir().join("images")).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name()).filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with(".promoting-") || !name.starts_with('.')
    });
    assert_eq!(left.count(), 0, "nothing half is left");
}

#[test]
fn without_a_catalog_it_is_said_what_to_do() {
    let elsewhere = Elsewhere::new();
    fs::write(elsewhere.path("config/banger/config.toml"), NETWORK).unwrap();
    for args in [
        &["image", "list", "--available"][..],
        &["kernel", "list", "--available"],
        &["kernel", "pull", "6.1"],
        &["image", "pull", "nowhere"],
    ] {
        let finished = elsewhere.run(args);
        finished.assert_failed(args[1], 4, &["[catalog_not_found]", "docs/images.md"]);
    }
    let nothing = elsewhere.path("nothing");
    let publish = ["image", "catalog", "publish", nothing.to_str().unwrap()];
    let finished = elsewhere.run(&publish);
    finished.assert_failed("an empty folder", 1, &["index.json", "catalog build"]);
    let build = [
        "image",
        "catalog",
        "build",
        nothing.to_str().unwrap(),
        "--image",
        "nowhere",
    ];
    let finished = elsewhere.run(&build);
    finished.assert_failed("an unknown image", 4, &["image_not_found"]);
    assert!(!nothing.exists(), "bad input changes nothing");
}
