//! Work seeds: what they were made from, and how one that is missing or of an older format is made again, out of
//! the `/root` of the image's root file system.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use banger_core::Digest;
use banger_ext4::{DataWriter, ReadTreeError, Tree, read_tree};
use ext4_view::Ext4Error;
use serde::{Deserialize, Serialize};

use crate::file_error::{Context, FileError};
use crate::store::{Image, ImageStore, RECORD, new_file};

/// How this banger makes seeds. It goes up when that changes; seeds of a lower one are made again.
pub(crate) const SEED_FORMAT: u32 = 1;

/// What a work seed was made from: its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedOrigin {
    /// How it was made.
    pub format: u32,
    /// The image's digest.
    pub made_from: Digest,
}

impl SeedOrigin {
    /// Of a seed that is made now.
    pub(crate) fn now(made_from: &Digest) -> Self {
        Self {
            format: SEED_FORMAT,
            made_from: made_from.clone(),
        }
    }
}

/// Whether a seed has to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedState {
    /// It is as it should be, or its owner's business.
    Current,
    /// It was made by an older banger, or from another root file system.
    Stale,
    /// There is none: VMs begin with an empty `/root`.
    Missing,
}

/// Why no seed was made. The image is as before.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// The root file system cannot be read.
    #[error("the root file system {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Ext4Error,
    },
    /// There is more below `/root` than there can be.
    #[error("there is more below /root of {} than a file system of its size holds", .0.display())]
    TooMuch(PathBuf),
    /// The image was removed, or means other files, meanwhile.
    #[error("the image is not there any more")]
    Gone,
    /// A file or folder could not be used.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The seed could not be written.
    #[error("the seed could not be written")]
    Format(#[from] banger_ext4::FormatError),
}

impl Image {
    /// Where a seed stands that was made again. The folder is the digest's, and the format is in the name.
    pub(crate) fn healed_seed(&self) -> PathBuf {
        self.folder()
            .join(format!("healed-seed-v{SEED_FORMAT}.ext4"))
    }

    /// What its work seed was made from; `None` without one, and where nobody knows.
    #[must_use]
    pub fn seed_origin(&self) -> Option<SeedOrigin> {
        let seed = self.work_seed()?;
        if seed == self.healed_seed() {
            return Some(SeedOrigin::now(&self.record.digest));
        }
        self.record.seed.clone()
    }

    /// Whether its work seed has to be made again.
    #[must_use]
    pub fn seed_state(&self) -> SeedState {
        let record = &self.record;
        let files = record.elsewhere.as_ref();
        if files.is_some_and(|files| files.work_seed.is_some()) {
            return SeedState::Current;
        }
        let Some(seed) = self.work_seed() else {
            return SeedState::Missing;
        };
        if seed == self.healed_seed() {
            return SeedState::Current;
        }
        // What a builder has left in `/root`, or a catalog brought, is in the seed alone.
        if record.built.is_some() || record.catalog.is_some() {
            return SeedState::Current;
        }
        let is_current = |origin: &SeedOrigin| *origin == SeedOrigin::now(&record.digest);
        match record.seed.as_ref().is_some_and(is_current) {
            true => SeedState::Current,
            false => SeedState::Stale,
        }
    }
}

impl ImageStore {
    /// Makes the work seed of an image again, if it has to be, out of its root file system's `/root`: all but sockets,
    /// devices, extended attributes and the knowledge which names lead to one file. VMs to come begin with it. Says
    /// whether it did. May take as long as reading what is there.
    ///
    /// # Errors
    /// See [`HealError`].
    pub fn heal_seed(&self, image: &Image) -> Result<bool, HealError> {
        if image.seed_state() == SeedState::Current {
            return Ok(false);
        }
        let _shared = self.lock_promotions()?;
        let next = self.promotion_folder()?;
        let made = next.path().join("seed");
        make(image, &made)?;
        let home = image.folder();
        let _turn = self.turn_to_change().context("lock", self.root())?;
        let now = self.artefact(&image.record.name, &image.record.digest);
        if !home.join(RECORD).exists() || now.is_none_or(|now| now.rootfs() != image.rootfs()) {
            return Err(HealError::Gone);
        }
        fs::rename(&made, image.healed_seed()).context("move the seed to", home)?;
        let synced = File::open(home).and_then(|folder| folder.sync_all());
        synced.context("write", home)?;
        Ok(true)
    }
}

fn make(image: &Image, to: &Path) -> Result<(), HealError> {
    let path = image.rootfs();
    let file = File::open(&path).context("read", &path)?;
    let seed = new_file(to).context("write", to)?;
    let again = seed.try_clone().context("write", to)?;
    let mut writer = DataWriter::new(seed);
    let read = read_tree(file, "/root", &mut writer).map_err(|error| match error {
        ReadTreeError::TooMuch => HealError::TooMuch(path.clone()),
        ReadTreeError::Write(source) => HealError::Io(FileError {
            what: "write",
            path: to.to_owned(),
            source,
        }),
        ReadTreeError::Open(source) => HealError::Io(FileError {
            what: "read",
            path: path.clone(),
            source,
        }),
        ReadTreeError::Read(source) => HealError::Read {
            path: path.clone(),
            source,
        },
    })?;
    let time = read.tree.node(Tree::ROOT).attributes.mtime.seconds;
    let time = u32::try_from(time).unwrap_or_default();
    let options = banger_oci::seed_options(&image.record.digest, time);
    banger_ext4::format(writer, &read.tree, &options)?;
    again.sync_all().context("write", to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    use std::process::Command;

    use banger_ext4::BLOCK;
    use ext4_view::{Ext4, FileType};
    use proptest::prelude::*;

    use super::*;
    use crate::RegisterRequest;

    /// A root file system of 16 MiB with that in `/root`.
    fn rootfs(at: &Path, fill: impl FnOnce(&Path)) -> PathBuf {
        let tree = at.join("tree");
        fs::create_dir_all(tree.join("root")).unwrap();
        fs::create_dir_all(tree.join("etc")).unwrap();
        fill(&tree.join("root"));
        let file = at.join("rootfs.ext4");
        run(Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-F", "-d"])
            .args([&tree, &file])
            .arg("16M"));
        file
    }

    fn run(command: &mut Command) -> String {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn registered(store: &ImageStore, rootfs: &Path) -> Image {
        let request = RegisterRequest {
            name: "mine".parse().unwrap(),
            rootfs: rootfs.to_owned(),
            work_seed: None,
            kernel: None,
            contents: vec![],
        };
        store.register(&request).unwrap()
    }

    #[test]
    fn a_seed_that_is_missing_is_made_of_the_images_own_root() {
        let place = tempfile::tempdir().unwrap();
        let big = [7; 3 * BLOCK + 5];
        let file = rootfs(place.path(), |root| {
            fs::set_permissions(root, fs::Permissions::from_mode(0o750)).unwrap();
            fs::write(root.join(".bashrc"), "alias ll='ls -l'\n").unwrap();
            fs::create_dir(root.join("bin")).unwrap();
            fs::write(root.join("bin/tool"), "#!/bin/sh\n").unwrap();
            let mode = fs::Permissions::from_mode(0o4755);
            fs::set_permissions(root.join("bin/tool"), mode).unwrap();
            symlink("bin/tool", root.join("link")).unwrap();
            symlink("/nowhere/at/all", root.join("dangling")).unwrap();
            let sparse = File::create(root.join("sparse")).unwrap();
            sparse.write_all_at(&big, 1 << 20).unwrap();
            run(Command::new("mkfifo").arg(root.join("pipe")));
        });
        let store = ImageStore::open(place.path().join("store")).unwrap();
        let image = registered(&store, &file);
        assert_eq!(
            (image.seed_state(), image.work_seed()),
            (SeedState::Missing, None)
        );
        assert!(store.heal_seed(&image).unwrap());
        let image = store.get(&image.record.name).unwrap();
        assert_eq!(image.seed_state(), SeedState::Current);
        let origin = image.seed_origin().unwrap();
        assert_eq!(origin, SeedOrigin::now(&image.record.digest));
        assert!(!store.heal_seed(&image).unwrap(), "once is enough");

        let seed = image.work_seed().unwrap();
        run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&seed));
        let there = Ext4::load_from_path(&seed).unwrap();
        let mode = |path: &str| there.symlink_metadata(path).unwrap().mode();
        assert_eq!((mode("/"), mode("/bin/tool")), (0o750, 0o4755));
        assert_eq!(there.read("/.bashrc").unwrap(), b"alias ll='ls -l'\n");
        let target = |path: &str| there.read_link(path).unwrap();
        assert_eq!(target("/link"), "bin/tool");
        assert_eq!(target("/dangling"), "/nowhere/at/all");
        let sparse = there.read("/sparse").unwrap();
        assert_eq!(sparse.len(), (1 << 20) + big.len());
        assert!(sparse[..1 << 20].iter().all(|byte| *byte == 0));
        assert_eq!(sparse[1 << 20..], big);
        let pipe = there.symlink_metadata("/pipe").unwrap();
        assert_eq!(pipe.file_type(), FileType::Fifo);
        use std::os::unix::fs::MetadataExt;
        let taken = fs::metadata(&seed).unwrap();
        assert!(
            taken.blocks() * 512 < 1 << 20,
            "it takes {}",
            taken.blocks()
        );
        assert_eq!(taken.mode() & 0o777, 0o644, "VMMs may read it");

        // It outlives a daemon's start and a promotion, and goes with the image.
        let store = ImageStore::open(place.path().join("store")).unwrap();
        let promoted = store.promote(&image.record.name).unwrap();
        assert_eq!(promoted.work_seed(), Some(seed.clone()));
        assert_eq!(promoted.seed_state(), SeedState::Current);
        let left = fs::read_dir(place.path().join("store")).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left
            .filter(|name| name.to_string_lossy().starts_with(".promoting-"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn an_older_one_is_made_again_and_its_owners_is_not() {
        let place = tempfile::tempdir().unwrap();
        let file = rootfs(place.path(), |root| {
            fs::write(root.join("mine"), "1").unwrap();
        });
        let store = ImageStore::open(place.path().join("store")).unwrap();
        let own = RegisterRequest {
            name: "own".parse().unwrap(),
            rootfs: file.clone(),
            work_seed: Some(file.clone()),
            kernel: None,
            contents: vec![],
        };
        let own = store.register(&own).unwrap();
        assert_eq!(own.seed_state(), SeedState::Current);
        assert!(!store.heal_seed(&own).unwrap());
        assert_eq!(own.work_seed(), Some(file.clone()));

        let mut image = registered(&store, &file);
        image = store.promote(&image.record.name).unwrap();
        fs::write(image.folder().join("work-seed.ext4"), "an older one").unwrap();
        assert_eq!(image.seed_state(), SeedState::Stale);
        image.record.seed = Some(SeedOrigin {
            format: SEED_FORMAT - 1,
            ..SeedOrigin::now(&image.record.digest)
        });
        assert_eq!(image.seed_state(), SeedState::Stale);
        image.record.seed = Some(SeedOrigin::now(&image.record.digest));
        assert_eq!(image.seed_state(), SeedState::Current);
        image.record.seed = None;
        image.record.catalog = Some("https://images.example".to_owned());
        assert_eq!(image.seed_state(), SeedState::Current, "a catalog's own");
        image.record.catalog = None;
        assert!(store.heal_seed(&image).unwrap());
        let there = Ext4::load_from_path(image.work_seed().unwrap()).unwrap();
        assert_eq!(there.read("/mine").unwrap(), b"1");
    }

    #[test]
    fn an_image_that_went_meanwhile_gets_none() {
        let place = tempfile::tempdir().unwrap();
        let file = rootfs(place.path(), |_| {});
        let store = ImageStore::open(place.path().join("store")).unwrap();
        let image = registered(&store, &file);
        fs::remove_dir_all(image.folder()).unwrap();
        assert!(matches!(store.heal_seed(&image), Err(HealError::Gone)));
        fs::remove_file(&file).unwrap();
        assert!(matches!(store.heal_seed(&image), Err(HealError::Io(_))));
        fs::write(&file, [0; 4096]).unwrap();
        let damaged = store.heal_seed(&image);
        assert!(
            matches!(damaged, Err(HealError::Read { .. })),
            "{damaged:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever a root file system's bytes are, it ends, and what it makes is a file system.
        #[test]
        fn a_damaged_file_system_makes_a_whole_seed_or_none(
            damage in prop::collection::vec((0..16_u64 << 20, any::<[u8; 8]>()), 1..200)
        ) {
            let place = tempfile::tempdir().unwrap();
            let file = rootfs(place.path(), |root| {
                for number in 0..30 {
                    fs::create_dir(root.join(format!("d{number}"))).unwrap();
                    fs::write(root.join(format!("d{number}/f")), vec![1; number * 1000]).unwrap();
                }
            });
            let store = ImageStore::open(place.path().join("store")).unwrap();
            let image = registered(&store, &file);
            let damaged = File::options().write(true).open(&file).unwrap();
            for (at, bytes) in damage {
                // Most of it is empty: what counts stands in front.
                damaged.write_all_at(&bytes, at >> (at % 8)).unwrap();
            }
            if store.heal_seed(&image).is_ok() {
                let seed = image.work_seed().unwrap();
                run(Command::new("/usr/sbin/e2fsck").arg("-fn").arg(&seed));
            }
        }
    }
}
