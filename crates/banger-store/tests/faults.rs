//! A database that somebody else holds, that cannot be written, or that is damaged; and what never stands in it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use banger_store::{Fault, InsertVmError, Store, StoreError};
use banger_testkit::SmallDisk;
use common::new;

fn elsewhere(path: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(path).unwrap()
}

/// Facts are asked of the host; whoever adds a column for one finds this test.
#[test]
fn no_fact_of_the_host_stands_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    drop(Store::open(&path).unwrap());
    let connection = elsewhere(&path);
    let mut query = connection
        .prepare(
            "SELECT t.name || '.' || c.name FROM sqlite_schema t, pragma_table_info(t.name) c
             WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' ORDER BY t.name, c.cid",
        )
        .unwrap();
    let columns = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let columns: Vec<String> = columns.map(Result::unwrap).collect();
    let expected = [
        "journal.vm journal.resource journal.confirmed",
        "operations.number operations.id operations.final operations.view",
        "vms.id vms.name vms.address vms.phase vms.intent vms.spec vms.origin vms.image vms.image_digest",
        "vms.kernel vms.ephemeral vms.created_at vms.started_at vms.boot_id vms.failure",
    ];
    assert_eq!(columns.join(" "), expected.join(" "));
}

#[test]
fn one_that_somebody_else_holds_can_be_read_and_is_written_when_they_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    let store = Store::open(&path).unwrap();
    store.insert_vm(new(1, "a")).unwrap();
    let other = elsewhere(&path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(store.vms().unwrap().len(), 1);
    let Err(InsertVmError::Store(error)) = store.insert_vm(new(2, "b")) else {
        panic!("it was stored")
    };
    assert_eq!(error.fault(), Fault::Busy, "{error:?}");
    // The next daemon can begin meanwhile: nothing is to be brought up to date.
    assert_eq!(Store::open(&path).unwrap().vms().unwrap().len(), 1);
    // Who waits for a moment only is let in.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.insert_vm(new(2, "b")).map(drop));
        other.execute_batch("COMMIT").unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(store.vms().unwrap().len(), 2);
}

#[test]
fn one_that_cannot_be_written_says_so_and_is_as_it_was() {
    let disk = match SmallDisk::new(4) {
        Err(why) => {
            println!("SKIPPED (loop mount): {why}");
            return;
        }
        Ok(disk) => disk,
    };
    let path = disk.path().join("banger.db");
    let row = Store::open(&path).unwrap().insert_vm(new(1, "a")).unwrap();
    disk.set_read_only(true).unwrap();
    match Store::open(&path) {
        Ok(store) => {
            let Err(InsertVmError::Store(error)) = store.insert_vm(new(2, "b")) else {
                panic!("it was stored")
            };
            assert_eq!(error.fault(), Fault::NoAccess, "{error:?}");
        }
        Err(error) => {
            assert!(error.to_string().contains("banger.db"), "{error}");
            assert_eq!(error.fault(), Fault::NoAccess, "{error:?}");
        }
    }
    disk.set_read_only(false).unwrap();
    assert_eq!(Store::open(&path).unwrap().vms().unwrap(), [row]);
}

#[test]
fn damage_in_the_middle_is_found_and_nothing_is_written_over_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    let store = Store::open(&path).unwrap();
    for number in 1..=3 {
        let _ = store.insert_vm(new(number, &format!("vm-{number}")));
    }
    assert_eq!(store.damage().unwrap(), Vec::<String>::new());
    drop(store);
    elsewhere(&path)
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    for page in 1..length / 4096 {
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0x5a; 512]).unwrap();
    }
    drop(file);
    let before = fs::read(&path).unwrap();
    match Store::open(&path) {
        Ok(store) => {
            let error = store.vms().expect_err("rows were made up");
            assert_eq!(error.fault(), Fault::Damaged, "{error:?}");
            assert!(!matches!(store.damage(), Ok(found) if found.is_empty()));
            assert!(store.insert_vm(new(9, "z")).is_err());
        }
        Err(error) => assert!(error.to_string().contains("banger.db"), "{error}"),
    }
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_row_that_makes_no_sense_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("banger.db");
    let store = Store::open(&path).unwrap();
    store.insert_vm(new(1, "a")).unwrap();
    let whole = store.insert_vm(new(2, "b")).unwrap();
    for (change, why) in [
        ("address = -1", "-1"),
        ("id = 'x'", "x"),
        ("phase = 'sleeping'", "phase"),
        ("intent = ''", "intent"),
        ("spec = '{}'", "vcpu"),
        ("image = '../x'", "image"),
    ] {
        let other = elsewhere(&path);
        let kept = "CREATE TEMP TABLE kept AS SELECT * FROM vms";
        other.execute_batch(kept).unwrap();
        other
            .execute_batch(&format!("UPDATE vms SET {change} WHERE name = 'a'"))
            .unwrap();
        let error = store.vms().unwrap_err();
        assert!(
            matches!(&error, StoreError::Row { what, .. } if what == "VM a"),
            "{error:?}"
        );
        assert_eq!(error.fault(), Fault::Damaged);
        let said = error.to_string();
        assert!(said.contains(why), "{said}");
        // The others are read, and the doctor tells.
        let vms = store.stored_vms().unwrap();
        assert_eq!(vms.readable, std::slice::from_ref(&whole));
        let unreadable = &vms.unreadable[0];
        assert_eq!(unreadable.name, "a");
        assert_eq!(unreadable.id.is_some(), !change.starts_with("id"));
        assert_eq!(store.damage().unwrap(), [said]);
        let back = "DELETE FROM vms; INSERT INTO vms SELECT * FROM kept";
        other.execute_batch(back).unwrap();
        assert_eq!(store.vms().unwrap().len(), 2);
    }
}
