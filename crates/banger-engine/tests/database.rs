//! A database that does not work: what is told, and that nothing is lost by it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::time::Duration;

use banger_core::{ErrorCode, Phase};
use banger_engine::OpState;
use banger_testkit::FakeHost;
use common::{end, open, open_unreconciled, running, wanted};

fn edit(dir: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(dir.join("banger.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_read_is_told_and_its_vm_left_alone() {
    for damage in [
        "phase = 'sleeping'",
        "spec = '{}'",
        // Nobody can say any more whose what runs is.
        "id = 'nonsense'",
    ] {
        let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
        let engine = open(&host, dir.path()).await;
        let vm = running(&engine).await;
        let other = engine.create(wanted(Some("other"), true)).await;
        assert_eq!(end(&engine, other).await, OpState::Succeeded);
        let whole = engine.resolve("other").unwrap().id;
        engine.abort();
        edit(
            dir.path(),
            &format!("PRAGMA foreign_keys = OFF; UPDATE vms SET {damage} WHERE name = 'demo'"),
        );

        let engine = open_unreconciled(&host, dir.path()).await;
        let report = engine.reconcile().await.unwrap();
        assert!(report.problems[0].contains("`demo`"), "{report:?}");
        assert_eq!((report.orphans, host.living()), (0, 2), "{damage}");
        assert!(host.lives(&vm), "{damage}");
        let told = engine.resolve("demo").unwrap_err();
        assert_eq!(told.code, ErrorCode::DatabaseDamaged, "{told:?}");
        assert!(
            !told.causes.is_empty() && !told.hints.is_empty(),
            "{told:?}"
        );
        let damage = engine.database_damage().await.unwrap();
        assert!(
            damage.iter().any(|what| what.contains("demo")),
            "{damage:?}"
        );
        // Its name is not given out, and the other VM is as it ever was.
        let namesake = engine.create(wanted(Some("demo"), false)).await;
        assert_eq!(namesake.unwrap_err().code, ErrorCode::NameTaken);
        let stop = end(&engine, engine.stop(&whole, Duration::from_secs(5))).await;
        assert_eq!(stop, OpState::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_else_holds_is_told_with_its_code_and_nothing_is_begun() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    let engine = open(&host, dir.path()).await;
    let vm = running(&engine).await;
    let other = rusqlite::Connection::open(dir.path().join("banger.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let failure = engine.create(wanted(None, true)).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::DatabaseBusy, "{failure:?}");
    assert!(!failure.causes.is_empty() && !failure.hints.is_empty());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(engine.list().len(), 1);
    let stop = end(&engine, engine.stop(&vm, Duration::from_secs(5))).await;
    assert_eq!(stop, OpState::Succeeded);
    assert_eq!(engine.get(&vm).unwrap().phase, Phase::Stopped);
}
