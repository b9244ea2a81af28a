//! What the tests of the engine share.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses another part of it")]

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use banger_core::{ByteSize, MemoryMib, Phase, SpecOrigin, VmId, VmSpec};
use banger_engine::ports::{Failure, GuestState};
use banger_engine::{CreateVm, Engine, EngineConfig, OpState, OperationView};
use banger_store::Store;
use banger_testkit::FakeHost;

/// What is kept free in these tests.
pub(crate) const RESERVE: ByteSize = ByteSize(512 << 20);

pub(crate) async fn open(host: &FakeHost, dir: &Path) -> Engine {
    let engine = open_unreconciled(host, dir).await;
    engine.reconcile().await.unwrap();
    engine
}

pub(crate) async fn open_unreconciled(host: &FakeHost, dir: &Path) -> Engine {
    open_within(host, dir, Ipv4Addr::new(172, 16, 0, 254)).await
}

/// The same with another last address.
pub(crate) async fn open_within(host: &FakeHost, dir: &Path, last: Ipv4Addr) -> Engine {
    open_in(host, dir, (Ipv4Addr::new(172, 16, 0, 1), last)).await
}

/// The same with other addresses for guests.
pub(crate) async fn open_in(
    host: &FakeHost,
    dir: &Path,
    guest_addresses: (Ipv4Addr, Ipv4Addr),
) -> Engine {
    let config = EngineConfig {
        guest_addresses,
        ..config()
    };
    open_as(host, dir, config).await
}

pub(crate) async fn open_as(host: &FakeHost, dir: &Path, config: EngineConfig) -> Engine {
    let store = Store::open(&dir.join("banger.db")).unwrap();
    Engine::open(host.ports(), store, config).await.unwrap()
}

pub(crate) fn config() -> EngineConfig {
    let address = |last| Ipv4Addr::new(172, 16, 0, last);
    EngineConfig {
        bridge_ip: address(1),
        guest_addresses: (address(1), address(254)),
        host_cpus: 4,
        host_memory: MemoryMib(8192),
        disk_reserve: RESERVE,
        boot_deadline: Duration::from_secs(5),
        helper_patience: Duration::from_secs(20),
    }
}

pub(crate) fn wanted(name: Option<&str>, start: bool) -> CreateVm {
    CreateVm {
        name: name.map(|name| name.parse().unwrap()),
        image: "debian-bookworm".parse().unwrap(),
        kernel: None,
        spec: VmSpec::FLOOR,
        origins: SpecOrigin::Floor.into(),
        start,
        ephemeral: false,
        work_seed: None,
        wait: Some(GuestState::Ready),
        timeout: None,
    }
}

pub(crate) async fn end(engine: &Engine, operation: Result<OperationView, Failure>) -> OpState {
    let id = operation.unwrap().id;
    let mut watch = engine.watch(&id).unwrap();
    let ended = watch.wait_for(|view| view.state != OpState::Running);
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("it ends")
        .unwrap()
        .state
        .clone()
}

pub(crate) async fn until_phase(engine: &Engine, vm: &VmId, phase: Phase) {
    let mut watch = engine.watch_vm(vm).unwrap();
    let reached = watch.wait_for(|view| view.phase == phase);
    tokio::time::timeout(Duration::from_secs(20), reached)
        .await
        .expect("it gets there")
        .unwrap();
}

pub(crate) async fn running(engine: &Engine) -> VmId {
    let operation = engine.create(wanted(Some("demo"), true)).await;
    let vm = operation.as_ref().unwrap().vm.clone().unwrap();
    assert_eq!(end(engine, operation).await, OpState::Succeeded);
    vm
}
