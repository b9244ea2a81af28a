//! Addresses run out, and come back.

mod common;

use std::net::Ipv4Addr;

use banger_core::ErrorCode;
use banger_engine::OpState;
use banger_testkit::FakeHost;
use common::{end, open_within, wanted};

#[tokio::test]
async fn a_full_subnet_is_an_error_with_the_way_out_and_changes_nothing() {
    let (host, dir) = (FakeHost::default(), tempfile::tempdir().unwrap());
    // A /30: the bridge and one guest.
    let engine = open_within(&host, dir.path(), Ipv4Addr::new(172, 16, 0, 2)).await;
    let first = engine.create(wanted(Some("first"), false)).await;
    let vm = first.as_ref().unwrap().vm.clone().unwrap();
    assert_eq!(end(&engine, first).await, OpState::Succeeded);
    let failure = engine
        .create(wanted(Some("second"), false))
        .await
        .unwrap_err();
    assert_eq!(failure.code, ErrorCode::AddressesExhausted);
    assert!(failure.message.contains("172.16.0.2"), "{failure}");
    assert!(
        failure.hints.iter().any(|hint| hint.contains("cidr")),
        "{:?}",
        failure.hints
    );
    assert_eq!(engine.list().len(), 1);
    let deleted = engine.delete(&vm);
    assert_eq!(end(&engine, deleted).await, OpState::Succeeded);
    let second = engine.create(wanted(Some("second"), false)).await;
    assert_eq!(end(&engine, second).await, OpState::Succeeded);
}
