//! The name service.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use banger_core::VmName;
use banger_dns::Zone;
use banger_engine::ports::Names;

/// The zone that both listeners answer from.
#[derive(Debug)]
pub(crate) struct ZoneNames(pub(crate) Zone);

#[async_trait]
impl Names for ZoneNames {
    async fn publish(&self, names: Vec<(VmName, Ipv4Addr)>) {
        self.0.publish(names);
    }
}
