//! Layers made by hand, layouts of them, and comparing file systems entry by entry.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod server;
pub(crate) mod stacks;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use banger_core::Digest;
use banger_oci::{
    Donor, FlattenError, FlattenOptions, Flattened, LayerBlob, Outputs, Unwatched, flatten,
};
use sha2::{Digest as _, Sha256};

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.parse().unwrap()
}

/// A tar being written.
#[derive(Debug, Default, Clone)]
pub(crate) struct Layer {
    pub(crate) tar: Vec<u8>,
}

/// What an entry says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: String,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: "1500000000".to_owned(),
            xattrs: vec![],
        }
    }
}

impl Layer {
    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(
            name.as_bytes(),
            b'0',
            b"",
            &Meta::default(),
            content,
            (0, 0),
        )
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        let meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        self.entry(name.as_bytes(), b'5', b"", &meta, b"", (0, 0))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(
            name.as_bytes(),
            b'2',
            target.as_bytes(),
            &Meta::default(),
            b"",
            (0, 0),
        )
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(
            name.as_bytes(),
            b'1',
            target.as_bytes(),
            &Meta::default(),
            b"",
            (0, 0),
        )
    }

    /// An entry with everything: PAX records for what a header cannot tell.
    pub(crate) fn entry(
        mut self,
        name: &[u8],
        kind: u8,
        link: &[u8],
        meta: &Meta,
        content: &[u8],
        device: (u32, u32),
    ) -> Self {
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| {
            let rest = [b" ", key, b"=", value, b"\n"].concat();
            let mut length = rest.len() + 1;
            while length != rest.len() + length.to_string().len() {
                length += 1;
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.extend_from_slice(&rest);
        };
        if name.len() > 100 {
            record(b"path", name);
        }
        if link.len() > 100 {
            record(b"linkpath", link);
        }
        record(b"mtime", meta.mtime.as_bytes());
        record(b"uid", meta.uid.to_string().as_bytes());
        record(b"gid", meta.gid.to_string().as_bytes());
        for (name, value) in &meta.xattrs {
            record(format!("SCHILY.xattr.{name}").as_bytes(), value);
        }
        self.header(b"pax", b'x', b"", 0o644, records.len(), (0, 0));
        self.content(&records);
        let short = |text: &[u8]| text[..text.len().min(100)].to_vec();
        self.header(
            &short(name),
            kind,
            &short(link),
            meta.mode,
            content.len(),
            device,
        );
        self.content(content);
        self
    }

    fn header(
        &mut self,
        name: &[u8],
        kind: u8,
        link: &[u8],
        mode: u32,
        size: usize,
        device: (u32, u32),
    ) {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        block[157..157 + link.len()].copy_from_slice(link);
        let mut put =
            |at: usize, text: String| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(100, format!("{mode:07o}"));
        put(108, "0000000".to_owned());
        put(116, "0000000".to_owned());
        put(124, format!("{size:011o}"));
        put(136, "00000000000".to_owned());
        put(329, format!("{:07o}", device.0));
        put(337, format!("{:07o}", device.1));
        put(257, "ustar".to_owned());
        put(263, "00".to_owned());
        put(148, "        ".to_owned());
        block[156] = kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.tar.extend_from_slice(&block);
    }

    fn content(&mut self, bytes: &[u8]) {
        self.tar.extend_from_slice(bytes);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    /// With the archive's end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

/// A digest of a file's size and of all that is not a hole.
pub(crate) fn fingerprint(path: &Path) -> Digest {
    use rustix::fs::{SeekFrom, seek};
    use std::os::unix::fs::FileExt;
    let file = File::open(path).unwrap();
    let mut hash = Sha256::new();
    hash.update(file.metadata().unwrap().len().to_le_bytes());
    let mut at = 0;
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        let mut block = [0; 4096];
        for offset in (start..at).step_by(4096) {
            let count = file.read_at(&mut block, offset).unwrap();
            if block[..count].iter().any(|byte| *byte != 0) {
                hash.update(offset.to_le_bytes());
                hash.update(&block[..count]);
            }
        }
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    hex.parse().unwrap()
}

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

pub(crate) fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

/// A blob as the flattener takes it.
pub(crate) fn blob(dir: &Path, tar: &[u8], packing: Packing) -> LayerBlob {
    let packed = pack(tar, packing);
    let digest = sha256(&packed);
    let path = dir.join(digest.to_string());
    fs::write(&path, &packed).unwrap();
    LayerBlob {
        file: File::open(path).unwrap(),
        offset: 0,
        length: packed.len() as u64,
        digest: Some(digest),
        diff_id: sha256(tar),
    }
}

/// An empty file.
pub(crate) fn create(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path).unwrap()
}

/// Flattens layers into `root.ext4` and `seed.ext4`; both must be clean.
pub(crate) fn flattened(
    dir: &Path,
    layers: Vec<LayerBlob>,
) -> Result<(PathBuf, Flattened), FlattenError> {
    flattened_with(dir, layers, &[]).map(|(root, made, _)| (root, made))
}

/// The same, with layers of others; also tells which layers' bytes were asked for. The index is in `layers.index`.
pub(crate) fn flattened_with(
    dir: &Path,
    layers: Vec<LayerBlob>,
    donors: &[Donor],
) -> Result<(PathBuf, Flattened, Vec<usize>), FlattenError> {
    let (root, seed) = (dir.join("root.ext4"), dir.join("seed.ext4"));
    let outputs = Outputs {
        rootfs: create(&root),
        work_seed: create(&seed),
        index: Some(create(&dir.join("layers.index"))),
    };
    let options = FlattenOptions {
        identity: sha256(b"identity"),
        time: 1_500_000_000,
    };
    let ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let mut layers: Vec<_> = layers.into_iter().map(Some).collect();
    let mut asked = Vec::new();
    let blob = |number: usize| {
        asked.push(number);
        Ok::<_, FlattenError>(layers[number].take().expect("asked for once"))
    };
    let made = flatten(&ids, blob, donors, outputs, &options, &Unwatched)?;
    for path in [&root, &seed] {
        let checked = run(Command::new("e2fsck").arg("-fn").arg(path));
        assert!(
            checked.status.success(),
            "e2fsck -fn {}: {}",
            path.display(),
            said(&checked)
        );
    }
    Ok((root, made, asked))
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Whether all of this is here; what is missing is said.
pub(crate) fn has(what: &str, programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED({what}): needs root");
        return false;
    }
    for program in programs {
        let found = std::env::split_paths("/usr/sbin:/usr/bin:/sbin:/bin")
            .any(|dir| dir.join(program).exists());
        if !found {
            println!("SKIPPED({what}): {program} is not installed");
            return false;
        }
    }
    true
}

/// A file system, mounted read-only for as long as this lives.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(image: &Path) -> Self {
        Self::with(image, "loop,ro").unwrap_or_else(|why| panic!("{why}"))
    }

    /// To be written to; what `mount` says when it cannot be.
    pub(crate) fn writable(image: &Path) -> Result<Self, String> {
        Self::with(image, "loop")
    }

    fn with(image: &Path, options: &str) -> Result<Self, String> {
        let at = image.with_extension("mounted");
        fs::create_dir_all(&at).unwrap();
        let output = run(Command::new("mount")
            .args(["-o", options])
            .args([image, &at]));
        if output.status.success() {
            Ok(Self(at))
        } else {
            Err(said(&output))
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

/// What can be seen of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    device: u64,
    /// Seconds and nanoseconds; `None` where the reference has left the time of unpacking.
    mtime: Option<(i64, i64)>,
    xattrs: BTreeMap<String, Vec<u8>>,
    content: Vec<u8>,
    /// The first path, by name, that leads to the same file.
    same_as: PathBuf,
}

/// Everything below a directory. Times since `now` are not those of the archive.
pub(crate) fn look(root: &Path, now: i64) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut firsts = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let full = if path.as_os_str().is_empty() {
            root.to_owned()
        } else {
            root.join(&path)
        };
        let stat = fs::symlink_metadata(&full).unwrap();
        let kind = stat.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                open.push(path.join(entry.unwrap().file_name()));
            }
        }
        let first: &mut PathBuf = firsts.entry(stat.ino()).or_insert_with(|| path.clone());
        *first = first.clone().min(path.clone());
        let this = Seen {
            kind: match kind {
                kind if kind.is_dir() => "directory",
                kind if kind.is_file() => "file",
                kind if kind.is_symlink() => "symlink",
                kind if kind.is_fifo() => "fifo",
                kind if kind.is_block_device() => "block device",
                kind if kind.is_char_device() => "character device",
                _ => "other",
            },
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            size: if kind.is_dir() { 0 } else { stat.len() },
            links: stat.nlink(),
            device: stat.rdev(),
            mtime: (stat.mtime() < now).then(|| (stat.mtime(), stat.mtime_nsec())),
            xattrs: xattrs(&full),
            content: match kind {
                kind if kind.is_file() => sha256(&fs::read(&full).unwrap()).to_string().into(),
                kind if kind.is_symlink() => fs::read_link(&full)
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
                _ => vec![],
            },
            same_as: stat.ino().to_string().into(),
        };
        seen.insert(path, this);
    }
    for this in seen.values_mut() {
        let inode: u64 = this.same_as.to_str().unwrap().parse().unwrap();
        this.same_as = firsts[&inode].clone();
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = [0; 8192];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut all = BTreeMap::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = [0; 8192];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        all.insert(
            String::from_utf8_lossy(name).into_owned(),
            value[..length].to_vec(),
        );
    }
    all
}

/// Says how two trees differ; nothing when they do not.
pub(crate) fn differences(
    ours: &BTreeMap<PathBuf, Seen>,
    theirs: &BTreeMap<PathBuf, Seen>,
) -> Vec<String> {
    let mut all = Vec::new();
    for (path, seen) in ours {
        if path == Path::new("lost+found") {
            continue;
        }
        match theirs.get(path) {
            None => all.push(format!("{}: only ours", path.display())),
            Some(other) => {
                let (mut seen, mut other) = (seen.clone(), other.clone());
                if other.mtime.is_none() {
                    seen.mtime = None;
                }
                if path.as_os_str().is_empty() {
                    // Our root has one directory more: `lost+found`.
                    other.links += u64::from(!theirs.contains_key(Path::new("lost+found")));
                    seen.same_as = other.same_as.clone();
                }
                if seen != other {
                    all.push(format!(
                        "{}:\n  ours   {seen:?}\n  theirs {other:?}",
                        path.display()
                    ));
                }
                if seen.mtime.is_none() {
                    other.mtime = None;
                }
            }
        }
    }
    for path in theirs.keys().filter(|path| !ours.contains_key(*path)) {
        all.push(format!("{}: only theirs", path.display()));
    }
    all
}

/// Writes an OCI layout with one image, tagged `image`.
pub(crate) fn write_layout(dir: &Path, layers: &[(Vec<u8>, Packing)]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let add = |bytes: &[u8]| {
        let digest = sha256(bytes);
        fs::write(blobs.join(digest.to_string()), bytes).unwrap();
        (digest, bytes.len())
    };
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (tar, packing) in layers {
        let (digest, size) = add(&pack(tar, *packing));
        let suffix = match packing {
            Packing::Plain => "",
            Packing::Gzip => "+gzip",
            Packing::Zstd => "+zstd",
        };
        descriptors.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar{suffix}","digest":"sha256:{digest}","size":{size}}}"#
        ));
        diff_ids.push(format!(r#""sha256:{}""#, sha256(tar)));
    }
    let config = format!(
        r#"{{"created":"2020-01-02T03:04:05Z","architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin"],"Cmd":["sh"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let (digest, size) = add(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{digest}","size":{size}}},"layers":[{}]}}"#,
        descriptors.join(",")
    );
    let (digest, size) = add(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{digest}","size":{size},"annotations":{{"org.opencontainers.image.ref.name":"image"}}}}]}}"#
    );
    fs::write(dir.join("index.json"), index).unwrap();
}

/// What `umoci unpack` makes of these layers as root; what it said when it cannot.
pub(crate) fn umoci(dir: &Path, layers: &[(Vec<u8>, Packing)]) -> Result<PathBuf, String> {
    let layout = dir.join("layout");
    write_layout(&layout, layers);
    let bundle = dir.join("bundle");
    let image = format!("{}:image", layout.display());
    let output = run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    if output.status.success() {
        Ok(bundle.join("rootfs"))
    } else {
        Err(said(&output))
    }
}

/// Puts the same file beside it, by gzip (`.gz`) and by zstd (`.zst`).
pub(crate) fn compress(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let beside = |ending: &str| format!("{}.{ending}", path.display());
    let zstd = zstd::encode_all(bytes.as_slice(), 1).unwrap();
    fs::write(beside("zst"), zstd).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    fs::write(beside("gz"), gzip.finish().unwrap()).unwrap();
}
