//! Pulling from registries that behave, and from some that do not.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of a test are a test"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use banger_core::ImageRef;
use banger_oci::{
    AuthFiles, BlobStore, Outputs, Patience, PullError, PullOptions, Registries, RegistryError,
    Resolved, Unwatched, Watch,
};
use common::server::{After, Answer, Request, Server};
use common::{
    Layer, Packing, compress, create, fingerprint, has, pack, run, said, sha256, write_layout,
};

/// An image's documents by the end of their paths.
struct Image {
    layer: Vec<u8>,
    layer_path: String,
    config: Vec<u8>,
    config_path: String,
    manifest: Vec<u8>,
}

impl Image {
    fn new() -> Self {
        Self::of("amd64", 300_000)
    }

    fn of(architecture: &str, size: usize) -> Self {
        // Bytes that do not compress, so that there is something to cut.
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(size)
        .collect();
        let tar = Layer::default()
            .file("noise", &noise)
            .file("root/hello", b"hi")
            .finish();
        let layer = pack(&tar, Packing::Gzip);
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Entrypoint":["/init"]}},"rootfs":{{"diff_ids":["sha256:{}"]}}}}"#,
            sha256(&tar)
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"sha256:{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{}","size":{}}}]}}"#,
            sha256(&config),
            config.len(),
            sha256(&layer),
            layer.len()
        );
        Self {
            layer_path: format!("blobs/sha256:{}", sha256(&layer)),
            config_path: format!("blobs/sha256:{}", sha256(&config)),
            layer,
            config,
            manifest: manifest.into_bytes(),
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let path = request.path.as_str();
        if path == "/v2/" {
            Answer::ok(b"{}")
        } else if path.ends_with(&self.layer_path) {
            Answer::ok(&self.layer).ranged(request)
        } else if path.ends_with(&self.config_path) {
            Answer::ok(&self.config)
        } else if path.contains("/manifests/") {
            Answer::ok(&self.manifest)
        } else {
            Answer::status(404)
        }
    }
}

fn options(dir: &Path) -> PullOptions {
    PullOptions {
        blobs: BlobStore::open(dir.join("blobs")).unwrap(),
        auth: AuthFiles::at(vec![dir.join("auth.json")]),
        certificates: vec![dir.join("certs.d")],
        registries: registries(dir),
        plain_http: false,
        patience: Patience {
            connect: Duration::from_secs(5),
            stall: Duration::from_millis(400),
            tries: 3,
            pause: Duration::from_millis(10),
        },
    }
}

/// What `registries.conf` says, where a test has written one.
fn registries(dir: &Path) -> Registries {
    let path = dir.join("registries.conf");
    let files = if path.exists() { vec![path] } else { vec![] };
    Registries::load(&files).unwrap()
}

fn reference(host: &str) -> ImageRef {
    format!("{host}/team/image:tag").parse().unwrap()
}

fn pull(dir: &Path, image: &ImageRef, watch: &dyn Watch) -> Result<PathBuf, PullError> {
    pull_as(dir, image, watch, "root.ext4")
}

fn pull_as(
    dir: &Path,
    image: &ImageRef,
    watch: &dyn Watch,
    name: &str,
) -> Result<PathBuf, PullError> {
    let options = options(dir);
    let _in_use = options.blobs.in_use()?;
    let resolved = Resolved::of(image, &options, watch)?;
    let path = dir.join(name);
    let outputs = Outputs {
        rootfs: create(&path),
        work_seed: create(&dir.join(format!("{name}.seed"))),
        index: None,
    };
    resolved.flatten(outputs, &[], watch)?;
    let checked = run(Command::new("e2fsck").arg("-fn").arg(&path));
    assert!(checked.status.success(), "{}", said(&checked));
    Ok(path)
}

/// Pulls from a server that answers the image's requests, except where `wrong` has something else to say.
fn pulled(
    wrong: impl Fn(&Image, &Request, usize) -> Option<Answer> + Send + Sync + 'static,
) -> (Result<PathBuf, PullError>, Server, tempfile::TempDir) {
    let image = Image::new();
    let count = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let is_layer = request.path.ends_with(&image.layer_path);
        let n = if is_layer {
            count.fetch_add(1, Ordering::AcqRel)
        } else {
            0
        };
        wrong(&image, request, n).unwrap_or_else(|| image.answer(request))
    });
    let dir = tempfile::tempdir().unwrap();
    let result = pull(dir.path(), &reference(&server.host), &Unwatched);
    (result, server, dir)
}

fn refused(
    wrong: impl Fn(&Image, &Request, usize) -> Option<Answer> + Send + Sync + 'static,
) -> RegistryError {
    let (result, _server, dir) = pulled(wrong);
    let left = fs::read_dir(dir.path().join("blobs")).unwrap();
    let whole = left.filter(|entry| {
        !entry
            .as_ref()
            .unwrap()
            .path()
            .to_string_lossy()
            .ends_with(".partial")
    });
    assert_eq!(whole.count(), 0, "nothing that failed passes for whole");
    match result {
        Err(PullError::Registry(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn is_layer(image: &Image, request: &Request) -> bool {
    request.path.ends_with(&image.layer_path)
}

#[test]
fn an_image_comes_and_its_layer_is_fetched_once() {
    let (result, server, dir) = pulled(|_, _, _| None);
    let first = fingerprint(&result.unwrap());
    let again = pull(dir.path(), &reference(&server.host), &Unwatched).unwrap();
    assert_eq!(fingerprint(&again), first);
    assert_eq!(
        server.count("blobs/"),
        3,
        "the configuration twice, the layer once"
    );
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let (result, server, _dir) = pulled(|image, request, n| {
        (is_layer(image, request) && n < 4).then(|| {
            let answer = image.answer(request);
            let some = answer.body.len() / 3;
            answer.cut(
                some,
                if n % 2 == 0 {
                    After::Close
                } else {
                    After::Stall
                },
            )
        })
    });
    result.unwrap();
    let seen = server.seen.lock().unwrap();
    let ranges: Vec<_> = seen
        .iter()
        .filter_map(|request| request.headers.get("range"))
        .collect();
    assert!(ranges.len() >= 2, "{ranges:?}");
}

#[test]
fn a_registry_without_ranges_is_asked_from_the_beginning() {
    let (result, ..) = pulled(|image, request, n| {
        is_layer(image, request).then(|| {
            let answer = Answer::ok(&image.layer);
            if n == 0 {
                answer.cut(1000, After::Close)
            } else {
                answer
            }
        })
    });
    result.unwrap();
}

#[test]
fn one_that_always_breaks_or_stalls_is_given_up() {
    let always = |after| {
        refused(move |image, request, _| {
            is_layer(image, request).then(|| Answer::ok(&image.layer).ranged(request).cut(0, after))
        })
    };
    assert!(matches!(
        always(After::Close),
        RegistryError::Unreachable { .. } | RegistryError::Truncated { .. }
    ));
    assert!(matches!(
        always(After::Stall),
        RegistryError::Stalled { .. }
    ));
}

#[test]
fn lies_about_size_and_content_are_found() {
    let error = refused(|image, request, _| {
        is_layer(image, request).then(|| Answer::ok(&image.layer[..1000]))
    });
    assert!(
        matches!(error, RegistryError::Size { actual: 1000, .. }),
        "{error:?}"
    );
    let longer = |image: &Image| [image.layer.as_slice(), b"more"].concat();
    let error = refused(move |image, request, _| {
        is_layer(image, request).then(|| {
            let mut answer = Answer::ok(&longer(image));
            answer.headers.clear();
            answer
        })
    });
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
    let error = refused(|image, request, _| {
        is_layer(image, request).then(|| {
            let mut layer = image.layer.clone();
            layer[5000] ^= 1;
            Answer::ok(&layer)
        })
    });
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    let error = refused(|image, request, _| {
        request
            .path
            .ends_with(&image.config_path)
            .then(|| Answer::ok(&vec![b' '; image.config.len()]))
    });
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    let error = refused(|_, request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Answer::ok(&vec![b' '; 5 << 20]))
    });
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

#[test]
fn a_busy_registry_is_asked_again_and_then_given_up() {
    for status in [429, 500, 503] {
        let (result, ..) = pulled(move |image, request, n| {
            (is_layer(image, request) && n < 2)
                .then(|| Answer::status(status).header("retry-after", "0"))
        });
        result.unwrap();
        let error = refused(move |image, request, _| {
            is_layer(image, request).then(|| Answer::status(status))
        });
        assert!(
            matches!(error, RegistryError::Busy { status: given, .. } if given == status),
            "{error:?}"
        );
    }
    let error = refused(|_, request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Answer::status(429).header("retry-after", "86400"))
    });
    assert!(matches!(error, RegistryError::Busy { .. }));
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let (result, ..) = pulled(|image, request, _| {
        (is_layer(image, request) && !request.path.starts_with("/elsewhere/")).then(|| {
            Answer::status(307).header("location", &format!("/elsewhere/{}", image.layer_path))
        })
    });
    result.unwrap();
    let error = refused(|image, request, _| {
        is_layer(image, request).then(|| Answer::status(302).header("location", &request.path))
    });
    assert!(
        matches!(error, RegistryError::Redirects { .. }),
        "{error:?}"
    );
}

#[test]
fn what_is_not_there_and_what_is_for_others() {
    let error = refused(|_, request, _| {
        request
            .path
            .contains("/manifests/")
            .then(|| Answer::status(404))
    });
    assert!(matches!(error, RegistryError::NotFound { .. }));
    let server = Server::start(|request| Image::of("s390x", 10).answer(request));
    let dir = tempfile::tempdir().unwrap();
    let result = pull(dir.path(), &reference(&server.host), &Unwatched);
    assert!(
        matches!(&result, Err(PullError::Platform { available, .. }) if available == "linux/s390x"),
        "{result:?}"
    );
}

#[test]
fn an_index_leads_to_the_image_for_this_machine() {
    let image = Image::new();
    let other = sha256(b"other");
    let digest = sha256(&image.manifest);
    let descriptor = |digest: &dyn std::fmt::Display, size: usize, architecture: &str| {
        format!(
            r#"{{"mediaType":"m","digest":"sha256:{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let index = |here: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
            descriptor(&other, 5, "arm64"),
            descriptor(&digest, image.manifest.len(), here)
        )
    };
    for (here, works) in [("amd64", true), ("riscv64", false)] {
        let index = index(here);
        let image = Image::new();
        let server = Server::start(move |request| {
            if request.path.ends_with("/manifests/tag") {
                Answer::ok(index.as_bytes())
            } else {
                image.answer(request)
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let result = pull(dir.path(), &reference(&server.host), &Unwatched);
        match result {
            Ok(_) => assert!(works),
            Err(PullError::Platform { available, .. }) => {
                assert!(!works);
                assert_eq!(available, "linux/arm64, linux/riscv64");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn credentials_get_a_token_and_go_nowhere_else() {
    let image = Image::new();
    let server = Server::start(move |request| {
        let host = request.headers["host"].clone();
        let given = request.headers.get("authorization").map(String::as_str);
        match request.path.as_str() {
            "/v2/" => Answer::ok(b"{}"),
            path if path.starts_with("/token?") => {
                assert!(path.contains("repository%3Ateam%2Fimage%3Apull"), "{path}");
                if given == Some("Basic bWU6c2VjcmV0") {
                    Answer::ok(br#"{"token":"t0k"}"#)
                } else {
                    Answer::status(401)
                }
            }
            _ if given == Some("Bearer t0k") => image.answer(request),
            _ => Answer::status(401).header(
                "www-authenticate",
                &format!(r#"Bearer realm="http://{host}/token",service="s""#),
            ),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let result = pull(dir.path(), &reference(&server.host), &Unwatched);
    assert!(
        matches!(
            result,
            Err(PullError::Registry(RegistryError::Unauthorized { .. }))
        ),
        "{result:?}"
    );
    let auth = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#,
        server.host
    );
    fs::write(dir.path().join("auth.json"), auth).unwrap();
    pull(dir.path(), &reference(&server.host), &Unwatched).unwrap();
}

#[test]
fn two_pulls_at_once_fetch_a_layer_once() {
    let image = Image::of("amd64", 3 << 20);
    let server = Server::start(move |request| image.answer(request));
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let pulls = ["one", "two"].map(|name| {
            let (dir, host) = (dir.path(), &server.host);
            scope.spawn(move || pull_as(dir, &reference(host), &Unwatched, name))
        });
        for pull in pulls {
            pull.join().unwrap().unwrap();
        }
    });
    assert_eq!(
        fingerprint(&dir.path().join("one")),
        fingerprint(&dir.path().join("two"))
    );
    assert_eq!(
        server.count("blobs/"),
        3,
        "two configurations and one layer"
    );
}

struct Impatient(AtomicBool);

impl Watch for Impatient {
    fn step(&self, _: &str) {}
    fn line(&self, text: &str) {
        if text.contains("MiB") {
            self.0.store(true, Ordering::Release);
        }
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[test]
fn a_cancelled_pull_ends_soon_and_the_next_one_goes_on() {
    let image = Image::new();
    let is_slow = std::sync::Arc::new(AtomicBool::new(true));
    let slow = std::sync::Arc::clone(&is_slow);
    let server = Server::start(move |request| {
        let answer = image.answer(request);
        if is_layer(&image, request) && slow.load(Ordering::Acquire) {
            answer.cut(100_000, After::Stall)
        } else {
            answer
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let result = pull(
        dir.path(),
        &reference(&server.host),
        &Impatient(AtomicBool::new(false)),
    );
    assert!(matches!(result, Err(PullError::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(3));
    is_slow.store(false, Ordering::Release);
    pull(dir.path(), &reference(&server.host), &Unwatched).unwrap();
    let seen = server.seen.lock().unwrap();
    assert_eq!(
        seen.last()
            .unwrap()
            .headers
            .get("range")
            .map(String::as_str),
        Some("bytes=100000-")
    );
}

#[test]
fn a_pull_is_cancelled_while_nobody_answers() {
    let image = Image::new();
    let server = Server::start(move |request| {
        let answer = image.answer(request);
        if request.path.contains("/manifests/") {
            answer.cut(0, After::Stall)
        } else {
            answer
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let result = pull(
        dir.path(),
        &reference(&server.host),
        &Impatient(AtomicBool::new(true)),
    );
    assert!(matches!(result, Err(PullError::Cancelled)), "{result:?}");
}

/// Debian's registry, for as long as this lives.
struct DockerRegistry {
    child: Child,
    host: String,
}

impl DockerRegistry {
    fn start(dir: &Path) -> Self {
        Self::with(dir, "")
    }

    /// With more lines of its configuration's `http` part.
    fn with(dir: &Path, more: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let host = format!("127.0.0.1:{port}");
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: \"{host}\"\n{more}",
            dir.join("registry").display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not come up");
            std::thread::yield_now();
        }
        Self { child, host }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_mirror_is_asked_first_and_one_that_does_not_help_is_passed_over() {
    let told = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("registries.conf"), text).unwrap();
        dir
    };
    let image = Image::new();
    let mirror = Server::start(move |request| {
        let path = request.path.replace("/cache/team/", "/team/");
        image.answer(&Request {
            path,
            ..request.clone()
        })
    });
    let empty = Server::start(|request| match request.path.as_str() {
        "/v2/" => Answer::ok(b"{}"),
        _ => Answer::status(404),
    });
    let dir = told(&format!(
        "[[registry]]\nlocation = \"{0}\"\n[[registry.mirror]]\nlocation = \"{0}/none\"\n\
         [[registry.mirror]]\nlocation = \"{1}/cache\"\n",
        empty.host, mirror.host
    ));
    pull(dir.path(), &reference(&empty.host), &Unwatched).unwrap();
    assert_eq!(empty.count("/v2/team/"), 0, "a mirror had it");
    assert!(
        empty.count("/v2/none/team/") > 0,
        "the first mirror was not asked"
    );

    // The registry itself comes last, and what it says counts.
    let dir = told(&format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"127.0.0.1:1\"\n",
        empty.host
    ));
    let result = pull(dir.path(), &reference(&empty.host), &Unwatched);
    assert!(
        matches!(&result, Err(PullError::Registry(RegistryError::NotFound { host, .. })) if *host == empty.host),
        "{result:?}"
    );
    let dir = told(&format!(
        "[[registry]]\nprefix = \"{}\"\nblocked = true\n",
        empty.host
    ));
    let result = pull(dir.path(), &reference(&empty.host), &Unwatched);
    assert!(
        matches!(result, Err(PullError::Blocked { .. })),
        "{result:?}"
    );
}

/// An authority's certificate, and certificate and key of a server at 127.0.0.1, in PEM.
fn certificates() -> (String, String, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    (certificate.pem(), server.pem(), key.serialize_pem())
}

#[test]
fn a_registry_with_a_certificate_of_ones_own_authority() {
    if !has("docker-registry", &["docker-registry", "skopeo", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (authority, certificate, key) = certificates();
    fs::write(at("server.pem"), certificate).unwrap();
    fs::write(at("server.key"), key).unwrap();
    let registry = DockerRegistry::with(
        dir.path(),
        &format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            at("server.pem").display(),
            at("server.key").display()
        ),
    );
    write_layout(
        &at("layout"),
        &[(Layer::default().file("sh", b"x").finish(), Packing::Gzip)],
    );
    let copied = run(Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ])
        .arg(format!("oci:{}:image", at("layout").display()))
        .arg(format!("docker://{}/team/image:tag", registry.host)));
    assert!(copied.status.success(), "{}", said(&copied));

    let result = pull(dir.path(), &reference(&registry.host), &Unwatched);
    assert!(
        matches!(
            &result,
            Err(PullError::Registry(RegistryError::Unreachable { .. }))
        ),
        "a stranger's certificate is believed: {result:?}"
    );
    let folder = at("certs.d").join(&registry.host);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("ca.crt"), authority).unwrap();
    pull(dir.path(), &reference(&registry.host), &Unwatched).unwrap();
}

#[test]
fn the_same_image_from_debians_registry_a_layout_and_archives() {
    if !has("docker-registry", &["docker-registry", "skopeo", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let layers = [
        Layer::default()
            .directory("bin")
            .file("bin/sh", &[1; 50_000])
            .file("gone", b"x"),
        Layer::default()
            .file(".wh.gone", b"")
            .link("bin/bash", "bin/sh"),
    ];
    write_layout(
        &layout,
        &layers.map(|layer| (layer.finish(), Packing::Gzip)),
    );
    let registry = DockerRegistry::start(dir.path());
    let copy = |from: &str, to: &str| {
        let copied = run(Command::new("skopeo").args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            from,
            to,
        ]));
        assert!(copied.status.success(), "{}", said(&copied));
    };
    let from = format!("oci:{}:image", layout.display());
    let in_registry = format!("{}/team/image:1", registry.host);
    let at = |name: &str| dir.path().join(name).display().to_string();
    copy(&from, &format!("docker://{in_registry}"));
    copy(&from, &format!("oci-archive:{}:image", at("oci.tar")));
    copy(
        &from,
        &format!("docker-archive:{}:team/image:1", at("docker.tar")),
    );
    for name in ["oci.tar", "docker.tar"] {
        compress(&dir.path().join(name));
    }
    let mut seen = Vec::new();
    let archive = |name: &str| format!("oci-archive:{}", at(name));
    let archives = ["oci.tar", "oci.tar.gz", "oci.tar.zst"].map(archive);
    for reference in [from, in_registry].into_iter().chain(archives) {
        let path = pull(dir.path(), &reference.parse().unwrap(), &Unwatched)
            .unwrap_or_else(|error| panic!("{reference}: {error:?}"));
        seen.push(fingerprint(&path));
    }
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    // Another configuration, as the archive's form wants it, but the same files.
    for name in ["docker.tar", "docker.tar.gz"] {
        let reference = format!("docker-archive:{}", at(name));
        pull(dir.path(), &reference.parse().unwrap(), &Unwatched).unwrap();
    }
    for missing in [
        "oci:/nowhere",
        "oci-archive:/nowhere",
        "docker-archive:/nowhere",
    ] {
        let result = pull(dir.path(), &missing.parse().unwrap(), &Unwatched);
        assert!(matches!(result, Err(PullError::Io { .. })), "{result:?}");
    }
    let wrong = format!("oci:{}:other", layout.display());
    let result = pull(dir.path(), &wrong.parse().unwrap(), &Unwatched);
    assert!(
        matches!(&result, Err(PullError::WhichImage { available, .. }) if available == "image"),
        "{result:?}"
    );
}

#[test]
fn damaged_archives_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("empty", &b""[..]),
        (
            "text",
            b"this is no archive at all, but long enough to be read as one block of it, perhaps",
        ),
        ("gz", b"\x1f\x8b\x08\x00"),
        (
            "gz-garbage",
            b"\x1f\x8b\x08\x00\0\0\0\0\0\x03garbage that is no deflate at all",
        ),
        ("zst", b"\x28\xb5\x2f\xfd"),
        ("zst-garbage", b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        for kind in ["oci-archive", "docker-archive"] {
            let reference = format!("{kind}:{}", path.display());
            let result = pull(dir.path(), &reference.parse().unwrap(), &Unwatched);
            assert!(
                matches!(result, Err(PullError::Malformed { .. })),
                "{reference}: {result:?}"
            );
        }
    }
}
