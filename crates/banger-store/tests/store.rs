//! The database as its users see it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::Ipv4Addr;

use banger_core::{OpId, Phase, RootStorage, VmId, VmSpec, VmmKind};
use banger_store::{Fault, InsertVmError, OpenStoreError, OperationRow, Store};
use banger_testkit::SmallDisk;
use common::new;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("banger.db")).unwrap();
    (dir, store)
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

/// A row as the first release wrote it: its spec names neither VMM nor storage.
#[test]
fn a_row_of_the_first_schema_is_read() {
    let (dir, store) = open();
    let path = dir.path().join("banger.db");
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let row = "INSERT INTO vms (id, name, address, phase, intent, spec, origin, image, ephemeral,
               created_at) VALUES ('0123456789ab', 'old', 2886729730, 'stopped', 'stopped',
               '{\"vcpu\":2,\"memory_mib\":1024,\"disk_size\":8589934592,\"nat\":true}',
               '\"host\"', 'debian-bookworm', 0, '2026-01-01T00:00:00Z')";
    connection.execute_batch(row).unwrap();
    drop(connection);
    let vms = Store::open(&path).unwrap().vms().unwrap();
    let expected = VmSpec {
        nat: true,
        vmm: VmmKind::Qemu,
        storage: RootStorage::Qcow2,
        ..VmSpec::FLOOR
    };
    assert_eq!(vms[0].spec, expected);
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
fn an_operation_that_goes_on_is_found_again_and_one_that_has_ended_does_not_change() {
    let (_dir, store) = open();
    let row = |number: u8, is_final, view: &str| OperationRow {
        id: OpId::from_entropy([number; 6]),
        is_final,
        view: view.into(),
    };
    for (number, is_final) in [(2, false), (1, false), (3, true)] {
        store
            .save_operation(&row(number, is_final, "begun"))
            .unwrap();
    }
    store.save_operation(&row(2, false, "further")).unwrap();
    let unfinished = store.unfinished_operations().unwrap();
    assert_eq!(
        unfinished,
        [row(2, false, "further"), row(1, false, "begun")]
    );
    store.save_operation(&row(2, true, "ended")).unwrap();
    // A write that was under way when it ended comes too late.
    store.save_operation(&row(2, false, "further")).unwrap();
    assert_eq!(
        store.operation(&row(2, true, "").id).unwrap(),
        Some(row(2, true, "ended"))
    );
    assert_eq!(store.unfinished_operations().unwrap().len(), 1);
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
    let newer = Store::open(&path).unwrap_err();
    assert!(matches!(newer, OpenStoreError::Migrate { .. }), "{newer:?}");
    assert_eq!(newer.fault(), Fault::Newer);
    let damaged = dir.path().join("damaged.db");
    std::fs::write(
        &damaged,
        "not a database, but longer than a header of one would be",
    )
    .unwrap();
    assert_eq!(Store::open(&damaged).unwrap_err().fault(), Fault::Damaged);
}

#[test]
fn a_full_file_system_is_told_and_costs_nothing_that_was_there() {
    let disk = match SmallDisk::new(2) {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(disk) => disk,
    };
    let new_vm = |number: usize| {
        let mut vm = new(0, &format!("vm-{number}"));
        vm.row.id = VmId::from_entropy((number as u64).to_be_bytes()[2..].try_into().unwrap());
        vm.addresses.1 = Ipv4Addr::new(172, 16, 255, 254);
        vm
    };
    let path = disk.path().join("banger.db");
    let store = Store::open(&path).unwrap();
    store.insert_vm(new_vm(0)).unwrap();
    let filler = disk.fill();
    // What the log has room for already still goes in; then it is told.
    let mut stored = 1;
    let error = loop {
        match store.insert_vm(new_vm(stored)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10_000, "the disk is never full");
    };
    let InsertVmError::Store(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.fault(), Fault::Full, "{error:?}");
    let mut rows = store.vms().unwrap();
    assert_eq!(rows.len(), stored);
    // Deleting needs room as well, and there is some for that.
    let mut deleted = 0;
    for row in &mut rows[1..] {
        row.phase = Phase::Deleting;
        if store.save_vm(row).is_err() {
            store.use_reserve();
            store.save_vm(row).unwrap();
        }
        store.delete_vm(&row.id).unwrap();
        deleted += 1;
        if deleted == 10 {
            break;
        }
    }
    stored -= deleted;
    let more = 1000 + stored;
    let again = store.insert_vm(new_vm(more)).unwrap_err();
    assert!(matches!(again, InsertVmError::Store(error) if error.fault() == Fault::Full));
    std::fs::remove_file(filler).unwrap();
    store.insert_vm(new_vm(more)).unwrap();
    drop(store);
    assert_eq!(Store::open(&path).unwrap().vms().unwrap().len(), stored + 1);
}
