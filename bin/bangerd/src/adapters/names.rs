//! The name service.

use async_trait::async_trait;
use banger_dns::{Guest, Zone};
use banger_engine::ports::{NamedGuest, Names};

/// The zone that both listeners answer from.
#[derive(Debug)]
pub(crate) struct ZoneNames(pub(crate) Zone);

#[async_trait]
impl Names for ZoneNames {
    async fn publish(&self, names: Vec<NamedGuest>) {
        let guest = |named: NamedGuest| Guest {
            name: named.name,
            address: named.address,
            nat: named.nat,
        };
        self.0.publish(names.into_iter().map(guest).collect());
    }
}
