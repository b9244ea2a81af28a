//! Making the firewall what the ledger says, whoever has been at it since.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use banger_core::VmId;
use banger_root_proto::{NetworkRepair, Refusal, RefusalCode};

use crate::beside::has_legacy;
use crate::firewall::{Guest, Ruleset};
use crate::helper::Helper;
use crate::ledger::AppliedFirewall;
use crate::nft;
use crate::refuse::OrRefuse as _;

/// How often neighbours are looked at in a row.
const MOST_LOOKS: usize = 3;
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

impl Helper {
    /// Makes the firewall what the ledger says; what others had changed of it. Without effect and
    /// without a process when nobody has changed anything since. `added` is the one guest that was
    /// not there the last time.
    ///
    /// A change of somebody else's that left our tables as they are costs a look and no write, so
    /// two owners' helpers do not keep each other busy.
    pub(crate) fn apply_firewall(
        &mut self,
        added: Option<&VmId>,
    ) -> Result<Vec<NetworkRepair>, Refusal> {
        let guests = self.guests();
        let config = &self.config;
        let render = |guests: &BTreeMap<VmId, Guest>| Ruleset { config, guests }.render();
        let whole = render(&guests);
        let known = self.ledger.firewall;
        let is_known = |batch: &str| known.is_some_and(|known| known.batch == hash(batch));
        let last = known.and_then(|known| known.generation);
        // The old iptables does not count its changes.
        let untouched = last.is_some() && last == nft::generation() && !has_legacy();
        let mut repairs = vec![];
        if !untouched || self.beside_problem.is_some() {
            let (seen, put_in) = self.settle_beside()?;
            if put_in && known.is_some() {
                repairs.push(NetworkRepair::Neighbour);
            }
            let table = Ruleset::table(&self.config);
            let now = known.and_then(|_| self.nft.fingerprint(&table));
            let before = known.and_then(|known| known.fingerprint);
            if is_known(&whole) && now.is_some() && before == now {
                self.note(&whole, seen, now)?;
            } else {
                if known.is_some() && (now.is_none() || before.is_some_and(|_| before != now)) {
                    repairs.push(NetworkRepair::Firewall);
                }
                let generation = self.write(&whole, seen)?;
                // Only while nobody was at it since is that what we wrote.
                let now = known.and_then(|_| self.nft.fingerprint(&table));
                let now = now.filter(|_| generation.is_some() && nft::generation() == generation);
                self.note(&whole, generation, now)?;
            }
        } else if !is_known(&whole) {
            let addition = added.and_then(|vm| {
                let mut others = guests.clone();
                let guest = others.remove(vm)?;
                is_known(&render(&others))
                    .then(|| Ruleset::render_addition(&self.config, vm, guest))
            });
            let generation = self.write(addition.as_ref().unwrap_or(&whole), last)?;
            self.note(&whole, generation, None)?;
        }
        if guests.values().any(|guest| guest.nat) {
            self.ensure_forwarding()?;
        }
        Ok(repairs)
    }

    /// Remembers what our tables look like, so that they are known again after a change of
    /// somebody else's.
    pub(crate) fn remember_firewall(&mut self) -> Result<(), Refusal> {
        let Some(known) = self.ledger.firewall else {
            return Ok(());
        };
        if known.fingerprint.is_some() || known.generation.is_none() {
            return Ok(());
        }
        let fingerprint = self.nft.fingerprint(&Ruleset::table(&self.config));
        if nft::generation() == known.generation {
            self.ledger.firewall = Some(AppliedFirewall {
                fingerprint,
                ..known
            });
            self.save()?;
        }
        Ok(())
    }

    fn guests(&self) -> BTreeMap<VmId, Guest> {
        let guests = self.ledger.taps.iter().map(|(vm, tap)| {
            let guest = Guest {
                address: tap.address,
                nat: tap.nat,
            };
            (vm.clone(), guest)
        });
        guests.collect()
    }

    /// Stands beside others until a look finds nothing more to do: the generation that was looked
    /// at, and whether something was put in.
    fn settle_beside(&mut self) -> Result<(Option<u32>, bool), Refusal> {
        let mut put_in = false;
        for _ in 0..MOST_LOOKS {
            let seen = nft::generation();
            if !self.stand_beside()? {
                return Ok((seen, put_in));
            }
            put_in = true;
        }
        // Somebody takes it out as fast as we put it in: the next change is heard of, too.
        Ok((None, put_in))
    }

    /// The generation afterwards, when nobody was at it since `before`: one commit, one step.
    fn write(&self, batch: &str, before: Option<u32>) -> Result<Option<u32>, Refusal> {
        let code = RefusalCode::HostNotReady;
        self.nft
            .apply(batch)
            .or_refuse_as(code, || "failed to set the firewall".into())?;
        let after = nft::generation();
        let alone = after == before.map(|before| before.wrapping_add(1));
        Ok(after.filter(|_| alone))
    }

    fn note(
        &mut self,
        whole: &str,
        generation: Option<u32>,
        fingerprint: Option<u64>,
    ) -> Result<(), Refusal> {
        self.ledger.firewall = Some(AppliedFirewall {
            batch: hash(whole),
            generation,
            fingerprint,
        });
        self.save()
    }

    fn ensure_forwarding(&mut self) -> Result<(), Refusal> {
        if std::fs::read(IP_FORWARD).is_ok_and(|value| value.starts_with(b"1")) {
            return Ok(());
        }
        self.ledger.forwarding = true;
        self.save()?;
        forward_packets(true).or_refuse(|| "failed to let this machine forward packets".into())
    }
}

/// Switches `ip_forward` (`Documentation/networking/ip-sysctl.rst`).
pub(crate) fn forward_packets(on: bool) -> Result<(), std::io::Error> {
    std::fs::write(IP_FORWARD, if on { "1" } else { "0" })
}

fn hash(batch: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    batch.hash(&mut hasher);
    hasher.finish()
}
