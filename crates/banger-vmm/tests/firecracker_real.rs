//! The client against a real Firecracker, which needs no working KVM as long as no guest is started.
//! `BANGER_TEST_FIRECRACKER` names it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where it fails"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use banger_core::{MemoryMib, VmId};
use banger_vmm::firecracker::{
    Balloon, BalloonUpdate, BootStage, FirecrackerClient, FirecrackerError, InstanceState,
    LogLevel, Logger, Metrics, MicroVm, MicroVmDrive, Request, VmStateChange, boot, instance_state,
    probe_firecracker,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    dir: tempfile::TempDir,
    process: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn vm() -> VmId {
    "0123456789ab".parse().unwrap()
}

fn firecracker() -> Option<PathBuf> {
    let path = std::env::var_os("BANGER_TEST_FIRECRACKER").map(PathBuf::from);
    if path.is_none() {
        println!("NOT RUN: BANGER_TEST_FIRECRACKER names no Firecracker");
    }
    path.filter(|_| match std::fs::metadata("/dev/kvm") {
        Ok(_) => true,
        Err(error) => {
            println!("NOT RUN: Firecracker does not start without /dev/kvm ({error})");
            false
        }
    })
}

fn start(program: &Path) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(dir.path().join("vmm.log")).unwrap();
    let process = Command::new(program)
        .args([
            "--id",
            vm().as_str(),
            "--api-sock",
            "api",
            "--level",
            "Warn",
        ])
        .args(["--show-level"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    Running { dir, process }
}

async fn connected(socket: &Path) -> FirecrackerClient {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match FirecrackerClient::connect(socket, PATIENCE).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

fn micro_vm() -> MicroVm {
    let drive = |name, read_only| MicroVmDrive { name, read_only };
    MicroVm {
        vm: vm(),
        vcpu: 2,
        memory: MemoryMib(128),
        boot_args: "console=ttyS0".into(),
        drives: vec![drive("root", false), drive("config", true)],
        mac: None,
        ephemeral: false,
    }
}

#[tokio::test]
async fn it_takes_what_it_is_told_and_says_what_it_does_not_take() {
    let Some(program) = firecracker() else { return };
    let version = probe_firecracker(&program).unwrap();
    let running = start(&program);
    let path = |name: &str| running.dir.path().join(name);
    let mut client = connected(&path("api")).await;
    assert_eq!(client.version().await.unwrap(), version);
    let info = client.instance().await.unwrap();
    assert_eq!(
        (info.id.as_str(), info.state),
        (vm().as_str(), InstanceState::NotStarted)
    );
    std::fs::write(path("metrics"), "").unwrap();
    for request in [
        Request::Logger(Logger {
            log_path: None,
            level: Some(LogLevel::Info),
            show_level: Some(true),
        }),
        Request::Metrics(Metrics {
            metrics_path: "metrics".into(),
        }),
        Request::Balloon(Balloon {
            amount_mib: 0,
            deflate_on_oom: true,
            stats_polling_interval_s: Some(5),
        }),
        Request::BalloonUpdate(BalloonUpdate { amount_mib: 1 }),
    ] {
        let sent = client.send(&request).await;
        // Some are for a guest that runs: those are refused as such, not as badly said.
        if let Err(error) = sent {
            let FirecrackerError::Fault { message, .. } = &error else {
                panic!("{error:?}")
            };
            assert!(message.contains("not supported before starting"), "{error}");
        }
    }
    let paused = client
        .send(&Request::VmStateChange(VmStateChange::Paused))
        .await;
    assert!(matches!(
        paused,
        Err(FirecrackerError::Fault { status: 400, .. })
    ));

    // No kernel yet: the fault names what is missing.
    let error = boot(&path("api"), &micro_vm()).await.unwrap_err();
    assert_eq!(error.stage, BootStage::Configure);
    let said = error.source.to_string();
    assert!(
        said.contains("/boot-source") && said.contains("No such file"),
        "{said}"
    );

    // All but the start is taken; a kernel that is none is found at the start.
    for (name, size) in [
        ("kernel", 4096),
        ("initrd", 512),
        ("root", 4096),
        ("config", 4096),
    ] {
        std::fs::write(path(name), vec![0; size]).unwrap();
    }
    let error = boot(&path("api"), &micro_vm()).await.unwrap_err();
    assert_eq!(error.stage, BootStage::Start, "{error:?}");
    let answer = instance_state(&path("api"), &vm(), PATIENCE).await;
    assert!(!matches!(answer, Ok(InstanceState::Running)), "{answer:?}");
}

#[tokio::test]
async fn a_vsock_path_that_is_taken_is_refused() {
    let Some(program) = firecracker() else { return };
    let running = start(&program);
    let path = |name: &str| running.dir.path().join(name);
    for name in ["kernel", "initrd", "root", "config", "v"] {
        std::fs::write(path(name), [0; 4096]).unwrap();
    }
    let error = boot(&path("api"), &micro_vm()).await.unwrap_err();
    assert!(error.source.to_string().contains("PUT /vsock"), "{error:?}");
}

#[tokio::test]
async fn one_that_was_killed_leaves_a_stale_socket() {
    let Some(program) = firecracker() else { return };
    let mut running = start(&program);
    let socket = running.dir.path().join("api");
    let mut client = connected(&socket).await;
    running.process.kill().unwrap();
    running.process.wait().unwrap();
    let gone = client.instance().await.unwrap_err();
    assert!(matches!(gone, FirecrackerError::Gone { .. }), "{gone:?}");
    let stale = FirecrackerClient::connect(&socket, PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(stale, FirecrackerError::StaleSocket { .. }),
        "{stale:?}"
    );
}
