//! A VM's folder and the files in it.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use banger_core::{ByteSize, ErrorCode, RootStorage, VmId};
use banger_engine::ports::{Drives, Failure, GuestIdentity, OwnDisk, ResolvedImage};
use banger_guest_proto::{GENERATION, GuestConfig, MachineId, append_files};
use banger_image::{DiskError, grow_work_disk, make_root_disk, make_work_disk, mend_store};

use super::{blocking, clock, console, planted};
use crate::config::SyncedPath;
use crate::{file_sync, keys, unpulled, vm_folder};

/// In a VM's folder: what of `[[file_sync]]` it did not get at its last start, a line each.
pub(crate) const FILE_SYNC_WARNINGS: &str = "file-sync.warnings";

/// Where VMs live, and what each guest is told alike.
#[derive(Debug, Clone)]
pub(crate) struct VmDrives {
    pub(crate) root: PathBuf,
    pub(crate) known_hosts: PathBuf,
    /// Held while `known_hosts` is read and written anew: VMs start side by side.
    pub(crate) known_hosts_turn: Arc<Mutex<()>>,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) prefix: u8,
    /// Public key of the owner.
    pub(crate) owner_key: String,
    /// The owner's home.
    pub(crate) home: PathBuf,
    /// What guests get of the owner's files.
    pub(crate) synced: Arc<[SyncedPath]>,
}

impl VmDrives {
    fn folder(&self, vm: &VmId) -> PathBuf {
        self.root.join(vm.as_str())
    }

    /// Where work disks are whose VMs have not taken them yet.
    fn planted(&self) -> PathBuf {
        self.root.with_file_name("planted")
    }

    fn planted_disk(&self, vm: &VmId) -> PathBuf {
        self.planted().join(format!("{vm}.ext4"))
    }

    fn disk(&self, vm: &VmId, disk: OwnDisk) -> PathBuf {
        self.folder(vm).join(match disk {
            OwnDisk::Root(storage) => storage.file_name(),
            OwnDisk::Work => "work.ext4",
        })
    }

    fn config_of(&self, identity: &GuestIdentity) -> Result<GuestConfig, Failure> {
        let key = self.folder(&identity.vm).join("ssh_host_ed25519");
        let host_key = keys::ensure(&key, identity.name.as_str()).map_err(|error| {
            Failure::because(ErrorCode::Internal, "the VM has no ssh host key", &error)
        })?;
        let id_file = self.folder(&identity.vm).join("machine-id");
        let machine_id = machine_id(&id_file).map_err(|error| in_folder(&id_file, &error))?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Ok(GuestConfig {
            generation: GENERATION,
            vm_id: identity.vm.clone(),
            hostname: identity.name.clone(),
            domain: "vm".to_owned(),
            machine_id,
            address: identity.address,
            prefix: self.prefix,
            gateway: self.gateway,
            mac: identity.vm.mac(),
            resolvers: vec![self.gateway],
            ssh_host_key: Some(host_key),
            // What is in a builder becomes an image: nothing of the owner's goes there.
            authorized_keys: match identity.name.is_of_builder() {
                true => vec![],
                false => vec![self.owner_key.clone()],
            },
            kernel_release: Some(identity.kernel_release.clone()),
            time_unix_ns: u64::try_from(now.as_nanos()).unwrap_or(0),
        })
    }

    /// Puts the owner's files behind the configuration, and what is to be told of them beside it.
    fn add_files(&self, vm: &VmId, drive: &mut Vec<u8>) -> Result<(), Failure> {
        let folder = self.folder(vm);
        let told = folder.join(FILE_SYNC_WARNINGS);
        let collected = file_sync::collect(&self.synced, &self.home);
        for warning in &collected.warnings {
            tracing::warn!(%vm, "{warning}");
        }
        if collected.warnings.is_empty() {
            let _ = fs::remove_file(&told);
        } else {
            replace(&told, collected.warnings.join("\n").as_bytes())
                .map_err(|error| in_folder(&told, &error))?;
        }
        let fresh = !folder.join("config.img").exists();
        append_files(drive, &collected.files, fresh).map_err(|error| {
            Failure::because(
                ErrorCode::Internal,
                "the files could not be passed on",
                &error,
            )
        })
    }

    /// Keeps the file that ssh checks host keys with: one line for each VM.
    fn write_known_host(&self, name: &str, public: &str) -> io::Result<()> {
        let _turn = self
            .known_hosts_turn
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = fs::read_to_string(&self.known_hosts).unwrap_or_default();
        let mine = format!("{name}.vm ");
        let mut lines: Vec<&str> = old
            .lines()
            .filter(|line| !line.starts_with(&mine))
            .collect();
        let key: String = public
            .split_ascii_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        let line = format!("{mine}{key}");
        lines.push(&line);
        replace(
            &self.known_hosts,
            format!("{}\n", lines.join("\n")).as_bytes(),
        )
    }
}

/// The VM's, made at its first start. It is on the disk before it is used; a power cut can still have left an
/// empty file of an earlier version, which is no reason never to start again.
fn machine_id(path: &Path) -> io::Result<MachineId> {
    let empty = |c: char| c.is_whitespace() || c == '\0';
    if let Ok(text) = fs::read_to_string(path)
        && !text.chars().all(empty)
    {
        return text.trim().parse().map_err(io::Error::other);
    }
    let id = MachineId::from_entropy(clock::random());
    let next = path.with_extension("partial");
    fs::write(&next, id.as_str())?;
    fs::File::open(&next)?.sync_all()?;
    fs::rename(&next, path)?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(id)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let next = path.with_extension("partial");
    fs::write(&next, bytes)?;
    fs::rename(&next, path)
}

pub(super) fn in_folder(path: &Path, error: &io::Error) -> Failure {
    Failure::because(
        ErrorCode::Internal,
        format!("{} could not be written or read", path.display()),
        error,
    )
}

pub(super) fn disk_failure(error: &DiskError) -> Failure {
    let code = if error.is_disk_full() {
        ErrorCode::DiskFull
    } else {
        ErrorCode::Internal
    };
    Failure::because(code, "a disk could not be made", error)
}

#[async_trait]
impl Drives for VmDrives {
    async fn ensure_folder(&self, vm: &VmId) -> Result<(), Failure> {
        let folder = self.folder(vm);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(|error| in_folder(&folder, &error)),
        }
    }

    async fn ensure_root_disk(
        &self,
        vm: &VmId,
        image: &ResolvedImage,
        storage: RootStorage,
    ) -> Result<(), Failure> {
        let to = self.disk(vm, OwnDisk::Root(storage));
        let base = image.rootfs.clone();
        blocking(move || {
            make_root_disk(storage, &base, &to).map_err(|error| disk_failure(&error))?;
            if storage == RootStorage::DmSnapshot
                && mend_store(&to).map_err(|error| disk_failure(&error))?
            {
                tracing::warn!(
                    store = %to.display(),
                    "the host's disk was full while the VM ran; its root disk is as after a power cut"
                );
            }
            Ok(())
        })
        .await
    }

    async fn ensure_work_disk(
        &self,
        vm: &VmId,
        image: &ResolvedImage,
        size: ByteSize,
    ) -> Result<(), Failure> {
        let (seed, to) = (image.work_seed.clone(), self.disk(vm, OwnDisk::Work));
        let (folder, planted) = (self.folder(vm), self.planted_disk(vm));
        blocking(move || {
            // Never over one that is there.
            if planted.exists() && !to.exists() {
                // A client that makes a disk puts a checkout into it.
                unpulled::expect(&folder).map_err(|error| in_folder(&folder, &error))?;
                fs::rename(&planted, &to).map_err(|error| in_folder(&to, &error))?;
            }
            make_work_disk(seed.as_deref(), &to, size).map_err(|error| disk_failure(&error))
        })
        .await
    }

    async fn plant_work_disk(&self, vm: &VmId, seed: &Path, size: ByteSize) -> Result<(), Failure> {
        let (seed, to) = (seed.to_owned(), self.planted_disk(vm));
        blocking(move || {
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(|error| in_folder(folder, &error))?;
            }
            planted::make(&seed, &to, size)
        })
        .await
    }

    async fn uproot_work_disk(&self, vm: &VmId) -> Result<(), Failure> {
        let planted = self.planted_disk(vm);
        blocking(move || planted::remove(&planted)).await
    }

    async fn planted_work_disks(&self) -> Result<Vec<VmId>, Failure> {
        let folder = self.planted();
        blocking(move || planted::list(&folder)).await
    }

    async fn has_disk(&self, vm: &VmId, disk: OwnDisk) -> Result<bool, Failure> {
        let path = self.disk(vm, disk);
        blocking(move || path.try_exists().map_err(|error| in_folder(&path, &error))).await
    }

    async fn grow_work_disk(&self, vm: &VmId, size: ByteSize) -> Result<(), Failure> {
        let disk = self.disk(vm, OwnDisk::Work);
        blocking(move || {
            grow_work_disk(&disk, size).map_err(|error| {
                let path = disk.display();
                let failure = Failure::because(
                    disk_failure(&error).code,
                    "the work disk could not be grown",
                    &error,
                );
                failure.hint(format!("`e2fsck -f {path}` looks after its file system"))
            })
        })
        .await
    }

    async fn write_config(&self, identity: &GuestIdentity) -> Result<(), Failure> {
        let (drives, identity) = (self.clone(), identity.clone());
        blocking(move || {
            let config = drives.config_of(&identity)?;
            let path = drives.folder(&identity.vm).join("config.img");
            let mut drive = banger_guest_proto::encode(&config);
            if !identity.name.is_of_builder() {
                drives.add_files(&identity.vm, &mut drive)?;
            }
            // The last launch's may belong to its VMM: a new file, not the old one's content.
            let _ = fs::remove_file(&path);
            replace(&path, &drive).map_err(|error| in_folder(&path, &error))?;
            use std::os::unix::fs::PermissionsExt;
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&path, private).map_err(|error| in_folder(&path, &error))?;
            if let Some(key) = &config.ssh_host_key
                && !identity.name.is_of_builder()
            {
                drives
                    .write_known_host(identity.name.as_str(), &key.public)
                    .map_err(|error| in_folder(&drives.known_hosts, &error))?;
            }
            Ok(())
        })
        .await
    }

    async fn console_tail(&self, vm: &VmId) -> Vec<String> {
        let (_, tail) = console::end(&self.folder(vm), vm_folder::CONSOLE).await;
        tail
    }

    async fn collect_console(&self, vm: &VmId) -> Result<(), Failure> {
        let folder = self.folder(vm);
        blocking(move || {
            let log = folder.join("console.log");
            let Ok(mut console) = console::open(&folder.join(vm_folder::CONSOLE)) else {
                return Ok(());
            };
            let copied = fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .and_then(|mut log| io::copy(&mut console, &mut log));
            copied.map(drop).map_err(|error| in_folder(&log, &error))
        })
        .await
    }

    async fn remove_folder(&self, vm: &VmId) -> Result<(), Failure> {
        let folder = self.folder(vm);
        blocking(move || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(in_folder(&folder, &error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn set_aside(&self, vm: &VmId) -> Result<Option<PathBuf>, Failure> {
        if !self.disk(vm, OwnDisk::Work).exists() {
            return self.remove_folder(vm).await.map(|()| None);
        }
        let (folder, lost) = (self.folder(vm), self.root.with_file_name("lost"));
        let vm = vm.clone();
        blocking(move || {
            let failed = |error: io::Error| in_folder(&lost, &error);
            fs::create_dir_all(&lost).map_err(failed)?;
            // One of that name may be there from an earlier time.
            let place = (0..u32::MAX)
                .map(|number| match number {
                    0 => lost.join(vm.as_str()),
                    number => lost.join(format!("{vm}-{number}")),
                })
                .find(|place| !place.exists());
            let place = place.unwrap_or_else(|| lost.join(vm.as_str()));
            fs::rename(&folder, &place).map_err(failed)?;
            Ok(Some(place))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<VmId>, Failure> {
        let root = self.root.clone();
        blocking(move || {
            let entries = fs::read_dir(&root).map_err(|error| in_folder(&root, &error))?;
            let id = |entry: fs::DirEntry| {
                entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok())
            };
            Ok(entries.flatten().filter_map(id).collect())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drives(dir: &Path) -> (VmDrives, VmId) {
        let drives = VmDrives {
            root: dir.join("vms"),
            known_hosts: dir.join("known_hosts"),
            known_hosts_turn: Arc::default(),
            gateway: Ipv4Addr::LOCALHOST,
            prefix: 24,
            owner_key: String::new(),
            home: dir.into(),
            synced: Arc::new([]),
        };
        (drives, "0123456789ab".parse().unwrap())
    }

    #[tokio::test]
    async fn a_planted_disk_is_taken_once_and_the_vm_is_asked_for_work_then() {
        let dir = tempfile::tempdir().unwrap();
        let (drives, vm) = drives(dir.path());
        let (folder, planted) = (drives.folder(&vm), drives.planted_disk(&vm));
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(drives.planted()).unwrap();
        let image = ResolvedImage {
            name: "debian-bookworm".parse().unwrap(),
            digest: banger_core::Digest::from_entropy([7; 32]),
            rootfs: "/images/rootfs".into(),
            work_seed: None,
            kernel: None,
        };
        let size = ByteSize(64 << 20);
        let plant = || make_work_disk(None, &planted, size).unwrap();
        plant();
        let uuid = |path: &Path| fs::read(path).unwrap()[1024 + 0x68..][..16].to_vec();
        let first = uuid(&planted);
        drives.ensure_work_disk(&vm, &image, size).await.unwrap();
        assert_eq!(uuid(&folder.join("work.ext4")), first);
        assert!(unpulled::is_expected(&folder) && !planted.exists());
        // One that is there stays.
        plant();
        drives.ensure_work_disk(&vm, &image, size).await.unwrap();
        assert_eq!(uuid(&folder.join("work.ext4")), first);
        assert_eq!(
            drives.planted_work_disks().await.unwrap(),
            std::slice::from_ref(&vm)
        );
        drives.uproot_work_disk(&vm).await.unwrap();
        assert!(drives.planted_work_disks().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn disks_that_nobody_knows_are_kept_and_a_folder_without_them_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (drives, vm) = drives(dir.path());
        let folder = drives.folder(&vm);
        assert_eq!(drives.set_aside(&vm).await.unwrap(), None);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.img"), "").unwrap();
        assert_eq!(drives.set_aside(&vm).await.unwrap(), None);
        assert!(!folder.exists());
        for place in ["lost/0123456789ab", "lost/0123456789ab-1"] {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("work.ext4"), place).unwrap();
            let kept = drives.set_aside(&vm).await.unwrap().unwrap();
            assert_eq!(kept, dir.path().join(place));
            assert_eq!(fs::read_to_string(kept.join("work.ext4")).unwrap(), place);
            assert!(drives.list().await.unwrap().is_empty());
        }
    }

    #[test]
    fn a_machine_id_stays_and_one_that_a_power_cut_emptied_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("machine-id");
        let first = machine_id(&path).unwrap();
        assert_eq!(machine_id(&path).unwrap(), first);
        for empty in ["", "\n", "\0\0\0\0"] {
            fs::write(&path, empty).unwrap();
            let again = machine_id(&path).unwrap();
            assert_ne!(again, first, "{empty:?}");
            assert_eq!(machine_id(&path).unwrap(), again, "{empty:?}");
        }
        fs::write(&path, "nonsense").unwrap();
        assert!(machine_id(&path).is_err(), "nonsense is not replaced");
    }
}
