//! What the tests of the database share.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;

use banger_core::{Intent, Phase, SpecOrigin, VmId, VmSpec};
use banger_store::{NewVm, VmRow};

/// A VM that is not stored yet; two of them find an address.
pub(crate) fn new(number: u8, name: &str) -> NewVm {
    let row = VmRow {
        id: VmId::from_entropy([number; 6]),
        name: name.parse().unwrap(),
        address: Ipv4Addr::UNSPECIFIED,
        phase: Phase::Provisioning,
        intent: Intent::Running,
        spec: VmSpec::FLOOR,
        origins: SpecOrigin::Floor.into(),
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
