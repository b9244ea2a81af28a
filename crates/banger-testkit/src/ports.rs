//! The engine's ports on the model. Nothing answers Ok without changing it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use banger_core::{
    ByteSize, Digest, ErrorCode, ImageName, KernelName, KillSignal, RootStorage, VmId, VmmKind,
};
use banger_engine::ports::{
    Clock, Drives, ExitFacts, Failure, Farewell, GuestIdentity, GuestState, Guests, Images,
    Kernels, LaunchRequest, NamedGuest, Names, OwnDisk, Progress, ResolvedImage, ResolvedKernel,
    RootHelper, Space, TapFacts, VmFacts, VmmFacts,
};

use crate::host::FakeHost;
use crate::model::{Folder, Hang, Model, Vmm};

fn broken(what: &str) -> Failure {
    Failure::new(ErrorCode::Internal, what)
}

fn folder<'a>(model: &'a mut Model, vm: &VmId) -> Result<&'a mut Folder, Failure> {
    model
        .folders
        .get_mut(vm)
        .ok_or_else(|| broken("the VM has no folder"))
}

fn image() -> ResolvedImage {
    ResolvedImage {
        name: "debian-bookworm".parse().expect("a name"),
        digest: Digest::from_entropy([7; 32]),
        rootfs: "/images/rootfs".into(),
        work_seed: None,
        kernel: None,
    }
}

fn living<'a>(model: &'a mut Model, vm: &VmId) -> Result<&'a mut Vmm, Failure> {
    let vmm = model.vmms.get_mut(vm).filter(|vmm| vmm.lives);
    vmm.ok_or_else(|| broken("the VM has no VMM that lives"))
}

#[async_trait]
impl Space for FakeHost {
    async fn free(&self) -> Result<ByteSize, Failure> {
        Ok(self.model().free.unwrap_or(ByteSize::gib(1 << 10)))
    }
}

#[async_trait]
impl Images for FakeHost {
    async fn ensure(
        &self,
        _: Option<&ImageName>,
        _: &dyn Progress,
    ) -> Result<ResolvedImage, Failure> {
        self.act(|_| Ok(image())).await
    }

    async fn by_digest(&self, _: &ImageName, digest: &Digest) -> Result<ResolvedImage, Failure> {
        let known = image();
        if known.digest == *digest {
            Ok(known)
        } else {
            Err(broken("no such artefact"))
        }
    }
}

#[async_trait]
impl Kernels for FakeHost {
    async fn ensure(
        &self,
        _: Option<&KernelName>,
        _: &dyn Progress,
    ) -> Result<ResolvedKernel, Failure> {
        self.act(|_| {
            Ok(ResolvedKernel {
                name: "6.1".parse().expect("a name"),
                release: "6.1".into(),
                vmlinux: "/kernels/vmlinux".into(),
                initrd: "/kernels/initrd".into(),
                modules: None,
            })
        })
        .await
    }
}

#[async_trait]
impl Drives for FakeHost {
    async fn ensure_folder(&self, vm: &VmId) -> Result<(), Failure> {
        self.act(|model| {
            if !model.folders.contains_key(vm) {
                model.folders_made += 1;
                let folder = Folder {
                    serial: model.folders_made,
                    ..Folder::default()
                };
                model.folders.insert(vm.clone(), folder);
            }
            Ok(())
        })
        .await
    }

    async fn ensure_root_disk(
        &self,
        vm: &VmId,
        _: &ResolvedImage,
        _: RootStorage,
    ) -> Result<(), Failure> {
        self.act(|model| folder(model, vm).map(|folder| folder.overlay = true))
            .await
    }

    async fn ensure_work_disk(
        &self,
        vm: &VmId,
        _: &ResolvedImage,
        size: ByteSize,
    ) -> Result<(), Failure> {
        self.act(|model| {
            let is_there = folder(model, vm)?.work_disk.is_some();
            let planted = !is_there && model.planted.remove(vm);
            let folder = folder(model, vm)?;
            folder.is_planted |= planted;
            let now = folder.work_disk.unwrap_or(size);
            folder.work_disk = Some(now.max(size));
            Ok(())
        })
        .await
    }

    async fn plant_work_disk(&self, vm: &VmId, _: &Path, _: ByteSize) -> Result<(), Failure> {
        self.act(|model| {
            model.planted.insert(vm.clone());
            Ok(())
        })
        .await
    }

    async fn uproot_work_disk(&self, vm: &VmId) -> Result<(), Failure> {
        self.act(|model| {
            model.planted.remove(vm);
            Ok(())
        })
        .await
    }

    async fn planted_work_disks(&self) -> Result<Vec<VmId>, Failure> {
        Ok(self.model().planted.iter().cloned().collect())
    }

    async fn has_disk(&self, vm: &VmId, disk: OwnDisk) -> Result<bool, Failure> {
        self.act(|model| {
            let folder = model.folders.get(vm);
            Ok(folder.is_some_and(|folder| match disk {
                OwnDisk::Root(_) => folder.overlay,
                OwnDisk::Work => folder.work_disk.is_some(),
            }))
        })
        .await
    }

    async fn grow_work_disk(&self, vm: &VmId, size: ByteSize) -> Result<(), Failure> {
        self.act(|model| {
            if model.vmms.get(vm).is_some_and(|vmm| vmm.lives) {
                return Err(broken("the VMM uses the disk"));
            }
            // An absent one is made with its size later.
            let Some(folder) = model.folders.get_mut(vm) else {
                return Ok(());
            };
            if folder.is_lent {
                return Err(broken("the disk belongs to a VMM"));
            }
            folder.work_disk = folder.work_disk.map(|now| now.max(size));
            Ok(())
        })
        .await
    }

    async fn write_config(&self, identity: &GuestIdentity) -> Result<(), Failure> {
        self.act(|model| folder(model, &identity.vm).map(|folder| folder.config = true))
            .await
    }

    async fn console_tail(&self, vm: &VmId) -> Vec<String> {
        let model = self.model();
        let Some(vmm) = model.vmms.get(vm) else {
            return vec![];
        };
        let mut lines = vec![format!("booted by {}", vmm.pid)];
        if vmm.hang == Some(Hang::Said) {
            lines.push(
                "[ 60.4] watchdog: BUG: soft lockup - CPU#1 stuck for 45s! [systemd:1]".into(),
            );
        }
        lines
    }

    async fn collect_console(&self, _: &VmId) -> Result<(), Failure> {
        self.act(|_| Ok(())).await
    }

    async fn set_aside(&self, vm: &VmId) -> Result<Option<PathBuf>, Failure> {
        let had_work = self
            .model()
            .folders
            .get(vm)
            .is_some_and(|it| it.work_disk.is_some());
        self.remove_folder(vm).await?;
        Ok(had_work.then(|| PathBuf::from(format!("lost/{vm}"))))
    }

    async fn remove_folder(&self, vm: &VmId) -> Result<(), Failure> {
        self.act(|model| {
            if model.vmms.get(vm).is_some_and(|vmm| vmm.lives) {
                return Err(broken("the VMM still uses its files"));
            }
            model.folders.remove(vm);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<VmId>, Failure> {
        Ok(self.model().folders.keys().cloned().collect())
    }
}

#[async_trait]
impl RootHelper for FakeHost {
    async fn ensure_network(&self) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            model.network = true;
            Ok(())
        })
        .await
    }

    async fn ensure_tap(&self, vm: &VmId, address: Ipv4Addr, nat: bool) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            if !model.network {
                return Err(broken("there is no bridge"));
            }
            if model
                .taps
                .iter()
                .any(|(other, tap)| other != vm && tap.0 == address)
            {
                return Err(broken("the address belongs to another VM"));
            }
            model.taps.insert(vm.clone(), (address, nat));
            Ok(())
        })
        .await
    }

    async fn remove_tap(&self, vm: &VmId) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            model.taps.remove(vm);
            Ok(())
        })
        .await
    }

    async fn launch(&self, request: &LaunchRequest) -> Result<VmmFacts, Failure> {
        self.helper()?;
        let is_firecracker = request.spec.vmm == VmmKind::Firecracker;
        let launched = self.act(|model| {
            let folder = folder(model, &request.vm)?;
            if !(folder.overlay && folder.work_disk.is_some() && folder.config) {
                return Err(broken("a drive is missing"));
            }
            if !model.taps.contains_key(&request.vm) {
                return Err(broken("the tap is missing"));
            }
            if model.vmms.contains_key(&request.vm) {
                return Err(broken("a VMM of this VM is there already"));
            }
            if let Some(folder) = model.folders.get_mut(&request.vm) {
                folder.is_lent = true;
            }
            model.launches += 1;
            let hang = match &mut model.hangs {
                Some((how, count)) if *count > 0 => {
                    *count -= 1;
                    Some(*how)
                }
                _ => None,
            };
            let pid = 1000 + model.launches;
            let backend = (!is_firecracker).then_some(pid + 1);
            model.vmms.insert(
                request.vm.clone(),
                Vmm {
                    pid,
                    backend,
                    has_guest: !is_firecracker,
                    lives: true,
                    paused: false,
                    dies_when_resumed: false,
                    spec: request.spec.clone(),
                    farewell: None,
                    hang,
                    agent_gone: false,
                },
            );
            Ok(VmmFacts {
                vmm: Some(pid),
                backend,
                paused: false,
                remains: true,
            })
        });
        let launched = launched.await?;
        if is_firecracker {
            self.act(|model| {
                let vmm = model.vmms.get_mut(&request.vm);
                vmm.ok_or_else(|| broken("the VMM is gone"))?.has_guest = true;
                Ok(())
            })
            .await?;
        }
        Ok(launched)
    }

    async fn set_nat(&self, vm: &VmId, nat: bool) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            let tap = model.taps.get_mut(vm);
            tap.ok_or_else(|| broken("the VM has no tap"))?.1 = nat;
            Ok(())
        })
        .await
    }

    async fn signal(&self, vm: &VmId, signal: KillSignal) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            let vmm = living(model, vm)?;
            // What is stopped hears only what it cannot ignore, until it is continued.
            vmm.dies_when_resumed = vmm.paused && signal == KillSignal::Term;
            vmm.lives = vmm.dies_when_resumed;
            Ok(())
        })
        .await
    }

    // Not counted: they come beside what an engine is asked for, when the room is looked at.
    async fn pause(&self, vm: &VmId) -> Result<(), Failure> {
        self.helper()?;
        living(&mut self.model(), vm)?.paused = true;
        self.changed();
        Ok(())
    }

    async fn resume(&self, vm: &VmId) -> Result<(), Failure> {
        self.helper()?;
        let mut model = self.model();
        let vmm = living(&mut model, vm)?;
        vmm.paused = false;
        vmm.lives = !vmm.dies_when_resumed;
        drop(model);
        self.changed();
        Ok(())
    }

    async fn remove_vmm(&self, vm: &VmId) -> Result<(), Failure> {
        self.helper()?;
        self.act(|model| {
            model.vmms.remove(vm);
            if let Some(folder) = model.folders.get_mut(vm) {
                folder.is_lent = false;
            }
            Ok(())
        })
        .await
    }

    async fn facts(&self) -> Result<Vec<(VmId, VmFacts)>, Failure> {
        self.helper()?;
        let model = self.model();
        let mut facts = std::collections::BTreeMap::<VmId, VmFacts>::new();
        for (vm, (address, nat)) in &model.taps {
            facts.entry(vm.clone()).or_default().tap = Some(TapFacts {
                address: *address,
                nat: *nat,
            });
        }
        for (vm, vmm) in &model.vmms {
            facts.entry(vm.clone()).or_default().vmm = VmmFacts {
                vmm: (vmm.lives && vmm.has_guest).then_some(vmm.pid),
                backend: vmm.backend.filter(|_| vmm.lives),
                paused: vmm.lives && vmm.paused,
                remains: true,
            };
        }
        Ok(facts.into_iter().collect())
    }

    async fn wait_exit(&self, vm: &VmId) -> Result<ExitFacts, Failure> {
        self.helper()?;
        let _watch = self.watch(vm);
        let mut changes = self.changes();
        loop {
            let state = self
                .model()
                .vmms
                .get(vm)
                .map(|vmm| (vmm.lives, vmm.farewell));
            match state {
                Some((true, _)) => {}
                Some((false, farewell)) => {
                    return Ok(ExitFacts {
                        farewell,
                        backend_lost: false,
                        console_tail: self.console_tail(vm).await,
                        vmm_tail: vec!["the model's VMM ended".to_owned()],
                    });
                }
                None => {
                    return Ok(ExitFacts {
                        farewell: None,
                        backend_lost: false,
                        console_tail: vec![],
                        vmm_tail: vec![],
                    });
                }
            }
            changes
                .changed()
                .await
                .map_err(|_| broken("the host is gone"))?;
        }
    }
}

#[async_trait]
impl Guests for FakeHost {
    async fn wait(&self, vm: &VmId, _: GuestState) -> Result<(), Failure> {
        let mut changes = self.changes();
        loop {
            let answers = |model: &Model| {
                let vmm = model.vmms.get(vm);
                let answers = |vmm: &Vmm| {
                    let runs = vmm.lives && vmm.has_guest && !vmm.paused;
                    runs && vmm.hang.is_none() && !vmm.agent_gone
                };
                !model.guests_hang && vmm.is_some_and(answers)
            };
            if answers(&self.model()) {
                return Ok(());
            }
            changes
                .changed()
                .await
                .map_err(|_| broken("the host is gone"))?;
        }
    }

    async fn shutdown(&self, vm: &VmId) -> Result<(), Failure> {
        // A guest that stands still hears nothing.
        self.wait(vm, GuestState::Reachable).await?;
        self.act(|model| {
            model.shutdowns += 1;
            let vmm = model
                .vmms
                .get_mut(vm)
                .ok_or_else(|| broken("there is no guest"))?;
            vmm.lives = false;
            vmm.farewell = Some(Farewell::Poweroff);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Names for FakeHost {
    async fn publish(&self, names: Vec<NamedGuest>) {
        let name = |guest: &NamedGuest| guest.name.to_string();
        let mut model = self.model();
        model.names = names.iter().map(name).collect();
        model.open_names = names.iter().filter(|guest| guest.nat).map(name).collect();
    }
}

impl Clock for FakeHost {
    fn now(&self) -> String {
        self.time().clone()
    }

    fn boot_id(&self) -> String {
        self.boot().to_string()
    }

    fn entropy(&self) -> [u8; 6] {
        let bytes = self.chance().to_be_bytes();
        [bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
    }
}
