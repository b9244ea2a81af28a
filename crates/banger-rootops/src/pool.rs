//! Taps that are kept ready. They are switched off and under no bridge, so nothing passes through
//! them; using one is giving it the VM's name. Which ones there are is what the kernel says, so a
//! crash loses none.

use banger_root_proto::{MAX_TAP_POOL, Refusal, RefusalCode};

use crate::helper::Helper;
use crate::netlink::{Link, Netlink};
use crate::network::find;
use crate::refuse::{OrRefuse as _, refuse};
use crate::taps::make_tap;

impl Helper {
    /// The taps that are ready.
    pub(crate) fn pool_links<'a>(&self, links: &'a [Link]) -> Vec<&'a Link> {
        let mark = self.config.mark();
        let ready = |link: &&Link| {
            let named = (0..MAX_TAP_POOL).any(|number| self.config.pool_tap(number) == link.name);
            // One without a mark was made a moment before a crash: nobody else uses the bridge's
            // name, while the bridge is ours.
            let unmarked = link.alias.is_none() && self.ledger.network;
            named && !link.up && (unmarked || link.alias.as_deref() == Some(&mark))
        };
        links.iter().filter(ready).collect()
    }

    /// Makes or removes until so many are ready.
    pub(crate) fn fill_pool(&mut self, netlink: &mut Netlink, size: u8) -> Result<(), Refusal> {
        if size > MAX_TAP_POOL {
            let message = format!("a pool of {size} taps is more than {MAX_TAP_POOL}");
            return Err(refuse(RefusalCode::Invalid, message));
        }
        if (self.pool, size) == (0, 0) && !self.ledger.network {
            return Ok(());
        }
        let links = netlink
            .links()
            .or_refuse(|| "failed to list network interfaces".into())?;
        let ready = self.pool_links(&links);
        for link in ready.iter().skip(usize::from(size)) {
            netlink
                .remove(link.index)
                .or_refuse(|| format!("failed to remove the tap `{}`", link.name))?;
        }
        let missing = usize::from(size).saturating_sub(ready.len());
        let is_free = |name: &String| !links.iter().any(|link| link.name == *name);
        let names = (0..MAX_TAP_POOL).map(|number| self.config.pool_tap(number));
        let names: Vec<String> = names.filter(is_free).take(missing).collect();
        self.pool = size;
        for name in names {
            let link = make_tap(netlink, &name)?;
            netlink
                .mark(link.index, &self.config.mark())
                .or_refuse(|| format!("failed to mark the tap `{name}`"))?;
        }
        Ok(())
    }

    /// One that is ready, under its new name; none when there is none, or it will not be renamed.
    pub(crate) fn take_from_pool(&self, netlink: &mut Netlink, name: &str) -> Option<Link> {
        if self.pool == 0 {
            return None;
        }
        let links = netlink.links().ok()?;
        let index = self.pool_links(&links).first()?.index;
        netlink.rename(index, name).ok()?;
        find(netlink, name).ok()?
    }
}
