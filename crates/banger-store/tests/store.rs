//! The database as its users see it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use banger_core::{Intent, OpId, Phase, SpecOrigin, VmId, VmSpec};
use banger_store::{InsertVmError, NewVm, OpenStoreError, OperationRow, Store, VmRow};

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("banger.db")).unwrap();
    (dir, store)
}

fn new(number: u8, name: &str) -> NewVm {
    let row = VmRow {
        id: VmId::from_entropy([number; 6]),
        name: name.parse().unwrap(),
        address: Ipv4Addr::UNSPECIFIED,
        phase: Phase::Provisioning,
        intent: Intent::Running,
        spec: VmSpec::FLOOR,
        origin: SpecOrigin::Floor,
        image: "debian-bookworm".parse().unwrap(),
        image_digest: None,
        kernel: None,
        ephemeral: false,
        created_at: "2026-01-01T00:00:00Z".into(),
        started_at: None,
        boot_id: None,
        failure: None,
    };
    let net = |last| Ipv4Addr::new(172, 16, 0, last);
    NewVm {
        row,
        addresses: (net(1), net(3)),
        reserved: net(1),
    }
}

#[test]
fn a_vm_is_read_back_as_it_was_written() {
    let (dir, store) = open();
    let mut row = store.insert_vm(new(1, "a")).unwrap();
    assert_eq!(row.address, Ipv4Addr::new(172, 16, 0, 2));
    row.phase = Phase::Running;
    row.boot_id = Some("boot".into());
    store.save_vm(&row).unwrap();
    drop(store);
    let again = Store::open(&dir.path().join("banger.db")).unwrap();
    assert_eq!(again.vms().unwrap(), [row.clone()]);
    again.delete_vm(&row.id).unwrap();
    again.delete_vm(&row.id).unwrap();
    assert!(again.vms().unwrap().is_empty());
}

#[test]
fn names_and_addresses_are_given_out_once() {
    let (_dir, store) = open();
    store.insert_vm(new(1, "a")).unwrap();
    assert!(matches!(
        store.insert_vm(new(2, "a")),
        Err(InsertVmError::NameTaken(_))
    ));
    let second = store.insert_vm(new(2, "b")).unwrap();
    assert!(matches!(
        store.insert_vm(new(3, "c")),
        Err(InsertVmError::AddressesExhausted { .. })
    ));
    store.delete_vm(&second.id).unwrap();
    assert_eq!(
        store.insert_vm(new(3, "c")).unwrap().address,
        second.address
    );
}

#[test]
fn the_journal_tells_intended_from_confirmed() {
    let (_dir, store) = open();
    let row = store.insert_vm(new(1, "a")).unwrap();
    store.journal(&row.id, &["tap", "vmm"], &[]).unwrap();
    store.journal(&row.id, &[], &["tap"]).unwrap();
    let lines = store.journal_of(&row.id).unwrap();
    let lines: Vec<_> = lines
        .iter()
        .map(|l| (l.resource.as_str(), l.confirmed))
        .collect();
    assert_eq!(lines, [("tap", true), ("vmm", false)]);
}

#[test]
fn finished_operations_are_kept_up_to_a_number() {
    let (_dir, store) = open();
    let id = |number: u16| OpId::from_entropy([0, 0, 0, 0, (number >> 8) as u8, number as u8]);
    for number in 0..210 {
        let row = OperationRow {
            id: id(number),
            is_final: true,
            view: "{}".into(),
        };
        store.save_operation(&row).unwrap();
    }
    assert!(store.operation(&id(0)).unwrap().is_none());
    assert!(store.operation(&id(209)).unwrap().is_some());
}

#[test]
fn a_newer_and_a_damaged_database_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    drop(Store::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA user_version = 99")
        .unwrap();
    drop(connection);
    assert!(matches!(
        Store::open(&path),
        Err(OpenStoreError::Migrate { .. })
    ));
    let damaged = dir.path().join("damaged.db");
    std::fs::write(
        &damaged,
        "not a database, but longer than a header of one would be",
    )
    .unwrap();
    assert!(Store::open(&damaged).is_err());
}
