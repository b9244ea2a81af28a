//! Every request that banger sends fits Firecracker's official API document, and what the document
//! promises as answers is understood. `BANGER_FIRECRACKER_API` names the document; `.ci/run` and
//! `scripts/unit-tests` set it when it lies beside the checkout.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

use std::collections::BTreeSet;

use banger_core::{MemoryMib, VmId};
use banger_vmm::firecracker::{
    Action, Balloon, BalloonStats, BalloonStatsUpdate, BalloonUpdate, BootSource, CacheType, Drive,
    Entropy, FirecrackerVersion, InstanceInfo, InstanceState, LogLevel, Logger, MachineConfig,
    MemoryBackend, MemoryBackendType, Metrics, MicroVm, MicroVmDrive, NetworkInterface,
    NetworkOverride, Request, Serial, SnapshotCreate, SnapshotLoad, SnapshotType, VmStateChange,
    Vsock, VsockOverride,
};
use serde_json::{Map, Value, json};

/// The document, or None when it is not here, which is said loudly.
fn document() -> Option<Value> {
    let Some(path) = std::env::var_os("BANGER_FIRECRACKER_API") else {
        println!("NOT RUN: BANGER_FIRECRACKER_API names no API document of Firecracker");
        return None;
    };
    let text = std::fs::read_to_string(&path).unwrap();
    Some(serde_saphyr::from_str(&text).unwrap())
}

/// A part of the document, with what it refers to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').unwrap();
            document.pointer(pointer).unwrap()
        }
        None => schema,
    }
}

/// What is wrong with a value, by the part of Swagger 2.0's schemas that the document uses.
fn problems(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let schema = resolve(document, schema);
    let kind = schema["type"].as_str().unwrap_or("object");
    let fits = match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the document has the type `{other}` at {at}"),
    };
    if !fits {
        found.push(format!("{at}: {value} is no {kind}"));
        return;
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        found.push(format!("{at}: {value} is not one of {words:?}"));
    }
    if let Some(number) = value.as_i64() {
        let beyond = schema["minimum"]
            .as_i64()
            .is_some_and(|least| number < least)
            || schema["maximum"].as_i64().is_some_and(|most| number > most);
        if beyond {
            found.push(format!("{at}: {number} is out of range"));
        }
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        problems(
            document,
            &schema["items"],
            item,
            &format!("{at}[{number}]"),
            found,
        );
    }
    let Some(fields) = value.as_object() else {
        return;
    };
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, field) in fields {
        match known.get(name) {
            Some(schema) => problems(document, schema, field, &format!("{at}.{name}"), found),
            None => found.push(format!("{at}: there is no `{name}`")),
        }
    }
}

/// The document's operation behind a method and a path.
fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let same = |template: &str| {
        let (mut ours, mut theirs) = (path.split('/'), template.split('/'));
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(our), Some(their)) if their == our || their.starts_with('{') => {}
                _ => return false,
            }
        }
    };
    let paths = document["paths"].as_object().unwrap();
    let (_, operations) = paths.iter().find(|(template, _)| same(template))?;
    operations.get(method.to_ascii_lowercase())
}

fn refused(document: &Value, request: &Request) -> Vec<String> {
    let name = request.name();
    let Some(operation) = operation(document, request.method().as_str(), &request.path()) else {
        return vec![format!("{name}: there is no such operation")];
    };
    let mut found = vec![];
    if operation["responses"].get("204").is_none() {
        found.push(format!("{name}: it does not answer 204"));
    }
    let parameters = operation["parameters"].as_array().unwrap();
    let body = parameters.iter().find(|one| one["in"] == "body").unwrap();
    let value: Value = serde_json::from_slice(&request.body().unwrap()).unwrap();
    problems(document, &body["schema"], &value, &name, &mut found);
    found
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// Each request at its fullest.
fn full() -> Vec<Request> {
    let vm: VmId = "0123456789ab".parse().unwrap();
    vec![
        Request::MachineConfig(MachineConfig {
            vcpu_count: 32,
            mem_size_mib: 4096,
            track_dirty_pages: Some(true),
        }),
        Request::BootSource(BootSource {
            kernel_image_path: text("kernel"),
            initrd_path: Some(text("initrd")),
            boot_args: Some(text("console=ttyS0")),
        }),
        Request::Drive(Drive {
            drive_id: text("root"),
            path_on_host: text("root"),
            is_root_device: false,
            is_read_only: false,
            cache_type: CacheType::Writeback,
        }),
        Request::NetworkInterface(NetworkInterface {
            iface_id: text("net0"),
            host_dev_name: text("tap0"),
            guest_mac: Some(vm.mac()),
        }),
        Request::Vsock(Vsock {
            guest_cid: 3,
            uds_path: text("v"),
        }),
        Request::Entropy(Entropy {}),
        Request::Serial(Serial {
            serial_out_path: text("console"),
        }),
        Request::Balloon(Balloon {
            amount_mib: 0,
            deflate_on_oom: true,
            stats_polling_interval_s: Some(5),
        }),
        Request::BalloonUpdate(BalloonUpdate { amount_mib: 64 }),
        Request::BalloonStatsUpdate(BalloonStatsUpdate {
            stats_polling_interval_s: 1,
        }),
        Request::Metrics(Metrics {
            metrics_path: text("metrics"),
        }),
        Request::Logger(Logger {
            log_path: Some(text("log")),
            level: Some(LogLevel::Warning),
            show_level: Some(true),
        }),
        Request::Action(Action::InstanceStart),
        Request::VmStateChange(VmStateChange::Paused),
        Request::SnapshotCreate(SnapshotCreate {
            mem_file_path: text("memory"),
            snapshot_path: text("state"),
            snapshot_type: SnapshotType::Full,
        }),
        Request::SnapshotLoad(SnapshotLoad {
            snapshot_path: text("state"),
            mem_backend: MemoryBackend {
                backend_type: MemoryBackendType::File,
                backend_path: text("memory"),
            },
            resume_vm: true,
            network_overrides: vec![NetworkOverride {
                iface_id: text("net0"),
                host_dev_name: text("tap1"),
            }],
            vsock_override: Some(VsockOverride {
                uds_path: text("v2"),
            }),
        }),
    ]
}

/// Each request at its least, and each word of each list.
fn others() -> Vec<Request> {
    let mut requests = vec![
        Request::MachineConfig(MachineConfig {
            vcpu_count: 1,
            mem_size_mib: 128,
            track_dirty_pages: None,
        }),
        Request::BootSource(BootSource {
            kernel_image_path: text("kernel"),
            initrd_path: None,
            boot_args: None,
        }),
        Request::Drive(Drive {
            drive_id: text("config"),
            path_on_host: text("config"),
            is_root_device: true,
            is_read_only: true,
            cache_type: CacheType::Unsafe,
        }),
        Request::NetworkInterface(NetworkInterface {
            iface_id: text("net0"),
            host_dev_name: text("tap0"),
            guest_mac: None,
        }),
        Request::Balloon(Balloon {
            amount_mib: 1,
            deflate_on_oom: false,
            stats_polling_interval_s: None,
        }),
        Request::VmStateChange(VmStateChange::Resumed),
        Request::SnapshotCreate(SnapshotCreate {
            mem_file_path: text("memory"),
            snapshot_path: text("state"),
            snapshot_type: SnapshotType::Diff,
        }),
        Request::SnapshotLoad(SnapshotLoad {
            snapshot_path: text("state"),
            mem_backend: MemoryBackend {
                backend_type: MemoryBackendType::Uffd,
                backend_path: text("faults"),
            },
            resume_vm: false,
            network_overrides: vec![],
            vsock_override: None,
        }),
        Request::Logger(Logger::default()),
    ];
    for action in [Action::FlushMetrics, Action::SendCtrlAltDel] {
        requests.push(Request::Action(action));
    }
    for level in [LogLevel::Error, LogLevel::Info, LogLevel::Debug] {
        requests.push(Request::Logger(Logger {
            level: Some(level),
            ..Logger::default()
        }));
    }
    requests
}

/// A new kind of request has to be put into [`full`].
fn kinds(requests: &[Request]) -> BTreeSet<usize> {
    let number = |request: &Request| match request {
        Request::MachineConfig(_) => 0,
        Request::BootSource(_) => 1,
        Request::Drive(_) => 2,
        Request::NetworkInterface(_) => 3,
        Request::Vsock(_) => 4,
        Request::Entropy(_) => 5,
        Request::Serial(_) => 6,
        Request::Balloon(_) => 7,
        Request::BalloonUpdate(_) => 8,
        Request::BalloonStatsUpdate(_) => 9,
        Request::Metrics(_) => 10,
        Request::Logger(_) => 11,
        Request::Action(_) => 12,
        Request::VmStateChange(_) => 13,
        Request::SnapshotCreate(_) => 14,
        Request::SnapshotLoad(_) => 15,
    };
    requests.iter().map(number).collect()
}

#[test]
fn every_request_fits_the_document() {
    assert_eq!(kinds(&full()), (0..16).collect());
    let Some(document) = document() else { return };
    let vm: VmId = "0123456789ab".parse().unwrap();
    let boot = MicroVm {
        mac: Some(vm.mac()),
        vm,
        vcpu: 2,
        memory: MemoryMib(1024),
        boot_args: text("console=ttyS0"),
        drives: ["root", "work", "config", "modules"]
            .map(|name| MicroVmDrive {
                name,
                read_only: false,
            })
            .into(),
        ephemeral: false,
    };
    let all = [full(), others(), boot.requests()].concat();
    let found: Vec<String> = all.iter().flat_map(|one| refused(&document, one)).collect();
    assert_eq!(found, Vec::<String>::new());
}

/// The check itself: it would see what a mistake in a type would make.
#[test]
fn what_does_not_fit_is_seen() {
    let Some(document) = document() else { return };
    let check = |path: &str, method: &str, value: Value| {
        let operation = operation(&document, method, path).unwrap();
        let parameters = operation["parameters"].as_array().unwrap();
        let body = parameters.iter().find(|one| one["in"] == "body").unwrap();
        let mut found = vec![];
        problems(&document, &body["schema"], &value, path, &mut found);
        found.len()
    };
    let drive = json!({"drive_id": "a", "is_root_device": false, "path_on_host": "a"});
    assert_eq!(check("/drives/a", "PUT", drive), 0);
    let wrong = json!({"drive_id": "a", "is_root_device": 1, "cache_type": "None", "path": ""});
    assert_eq!(check("/drives/a", "PUT", wrong), 3);
    assert_eq!(check("/drives/a", "PUT", json!({})), 2);
    let machine = json!({"vcpu_count": 33, "mem_size_mib": 128});
    assert_eq!(check("/machine-config", "PUT", machine), 1);
    let load = json!({"snapshot_path": "s", "network_overrides": [{"iface_id": "x"}]});
    assert_eq!(check("/snapshot/load", "PUT", load), 1);
    assert!(operation(&document, "POST", "/actions").is_none());
    assert!(operation(&document, "PUT", "/nothing").is_none());
}

/// An answer as the document describes it: with every field, or with the required ones only.
fn example(document: &Value, schema: &Value, everything: bool) -> Value {
    let schema = resolve(document, schema);
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str() {
        Some("string") => json!("text"),
        Some("integer") => json!(7),
        Some("boolean") => json!(true),
        _ => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let properties = schema["properties"].as_object().unwrap().iter();
            let wanted =
                properties.filter(|(name, _)| everything || required.contains(&json!(name)));
            let fields =
                wanted.map(|(name, one)| (name.clone(), example(document, one, everything)));
            Value::Object(fields.collect())
        }
    }
}

#[test]
fn the_answers_of_the_document_are_understood() {
    let Some(document) = document() else { return };
    let answer = |path: &str| {
        let operation = operation(&document, "GET", path).unwrap();
        operation["responses"]["200"]["schema"].clone()
    };
    for everything in [true, false] {
        let info = example(&document, &answer("/"), everything);
        serde_json::from_value::<InstanceInfo>(info).unwrap();
        let stats = example(&document, &answer("/balloon/statistics"), everything);
        serde_json::from_value::<BalloonStats>(stats).unwrap();
    }
    let version = example(&document, &answer("/version"), true);
    assert_eq!(version, json!({"firecracker_version": "text"}));
    let words = &document["definitions"]["InstanceInfo"]["properties"]["state"]["enum"];
    let ours = [
        InstanceState::NotStarted,
        InstanceState::Running,
        InstanceState::Paused,
    ];
    assert_eq!(*words, json!(ours.map(InstanceState::as_str)));
    for (word, state) in words.as_array().unwrap().iter().zip(ours) {
        let parsed: InstanceState = serde_json::from_value(word.clone()).unwrap();
        assert_eq!(parsed, state);
    }
    let fault = &document["definitions"]["Error"]["properties"]["fault_message"]["type"];
    assert_eq!(fault, "string");
    let version: FirecrackerVersion = document["info"]["version"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(version.is_supported(), "{version}");
}
