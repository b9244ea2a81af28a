//! Coming up and going down.
#![expect(
    clippy::print_stderr,
    reason = "a daemon that cannot start says so to whoever started it"
)]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use banger_core::TimeSpan;
use banger_dns::{DnsServer, Forwarder, Resolvers, Zone};
use banger_engine::ports::{Failure, RootHelper as _};
use banger_engine::{Engine, EngineConfig, Ports, open_failure};
use banger_image::ImageStore;
use banger_kernel::KernelStore;
use banger_root_proto::{Accel, MAX_TAP_POOL};
use banger_store::Store;
use banger_vmm::{GuestClock, firecracker_boot_args, measure_tsc_khz, probe_kvm, qemu_boot_args};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::adapters::{
    AgentGuests, BootArgs, DiskSpace, HelperLink, HostClock, LocalImages, LocalKernels,
    NetworkNeeds, VmDrives, ZoneNames,
};
use crate::args::Args;
use crate::building::{Waiting, remove_builders};
use crate::builds::Builder;
use crate::catalogs::Catalogs;
use crate::config::{self, Config, Loaded, LogLevel};
use crate::host_vmms::HostProbe;
use crate::root_config::RootConfig;
use crate::sizes::Host;
use crate::stale::{self, Staleness};
use crate::state::{HostDns, State};
use crate::stats::Sampler;
use crate::stores::{Told, has_store};
use crate::{convert, keys, limits, listen, routes};

const DEFAULT_IMAGE: &str = "debian-bookworm";
/// A log of this size is put aside at the next start.
const LOG_LIMIT: u64 = 10 << 20;
/// How long a start, or the first question after the helper's, waits for what exists to be compared.
const RECONCILE_PATIENCE: Duration = Duration::from_secs(5);

/// How long a VM whose guest rebooted or powered off waits for a helper that is away. Longer than a restart of it, or
/// somebody who is about to ask for something, takes.
const HELPER_PATIENCE: Duration = Duration::from_secs(600);

/// How often the network is looked after.
const TENDING: Duration = Duration::from_secs(5);

/// Runs the daemon to its end.
pub(crate) fn run(args: Args) -> ExitCode {
    let ready_fd = args.ready_fd;
    limits::raise_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(serve(args));
            // Builds that still run are not waited for: they are cleaned up at the next start.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (line, text) = told(&error);
            tell(ready_fd, &line);
            eprintln!("bangerd: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is no daemon: a line for whoever started it (an `ApiError`, where there is one), and the same for people.
fn told(error: &anyhow::Error) -> (String, String) {
    let text = format!("{error:#}");
    let Some(failure) = error.downcast_ref::<Failure>() else {
        return (text.clone(), text);
    };
    let text = failure.in_full();
    let line = serde_json::to_string(&convert::error(failure));
    (line.unwrap_or_else(|_| text.clone()), text)
}

/// Says one line to whoever started the daemon.
fn tell(ready_fd: Option<i32>, line: &str) {
    if let Some(fd) = ready_fd
        && let Ok(mut pipe) = fs::File::options()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
    {
        let _ = writeln!(pipe, "{}", line.replace('\n', " "));
    }
}

async fn serve(args: Args) -> Result<()> {
    let state_dir = args.state_dir.clone();
    listen::private_folder(&state_dir).context("the state directory cannot be used")?;
    for folder in ["vms", "logs", "initrd"] {
        fs::create_dir_all(state_dir.join(folder)).with_context(|| format!("making {folder}"))?;
    }
    let lock = listen::lock(&state_dir.join("bangerd.lock"))?;
    let Some(_lock) = lock else {
        bail!("another daemon runs on {}", state_dir.display())
    };
    let mut loaded = config::load(&args.config_dir.join("config.toml"), &home())?;
    let overruled = match &args.root_config {
        Some(path) => RootConfig::load(path)?.overrule(&mut loaded.config),
        None => vec![],
    };
    start_log(
        &state_dir,
        loaded.config.log_level.unwrap_or(LogLevel::Info),
    )?;
    let state = Arc::new(wire(args, loaded, overruled).await?);
    let listener = listen::bind(&state.args.socket).context("the socket cannot be used")?;
    let router = routes::router(Arc::clone(&state));
    taken_up(&state).await;
    let tending = tokio::spawn(tend(Arc::clone(&state)));
    let watching = tokio::spawn(stale::watch(Arc::clone(&state)));
    tracing::info!(pid = std::process::id(), "listening");
    tell(state.args.ready_fd, "ready");
    // Nobody listens unless a service manager started us.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager was not told");
    }
    let [mut terminate, mut interrupt, mut hangup] = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    tokio::select! {
        () = listen::serve(listener, router, Arc::clone(&state.stop)) => {}
        () = state.stop.answered() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    tending.abort();
    watching.abort();
    let _ = fs::remove_file(&state.args.socket);
    state.helper.drain_pool().await;
    tracing::info!("ended");
    Ok(())
}

/// Makes what exists and what is stored agree, once; returns when that is done, when it cannot be done
/// yet, or when it takes long: then it goes on beside.
pub(crate) async fn taken_up(state: &Arc<State>) {
    if !state.reconciled.load(Ordering::Acquire) {
        let taking = tokio::spawn(take_up(Arc::clone(state)));
        let _ = tokio::time::timeout(RECONCILE_PATIENCE, taking).await;
    }
}

async fn take_up(state: Arc<State>) {
    let _alone = state.reconciling.lock().await;
    if state.reconciled.load(Ordering::Acquire) {
        return;
    }
    match state.engine.reconcile().await {
        Ok(report) => {
            state.reconciled.store(true, Ordering::Release);
            tracing::info!(?report, "reconciled");
            state.note_problems(report.problems);
            // No build goes on yet: what an earlier daemon was building has failed with it.
            remove_builders(&state).await;
            // Where there are VMs, their addresses lead nowhere else from now on.
            if !state.engine.list().is_empty()
                && let Err(failure) = state.helper.ensure_network().await
            {
                tracing::warn!(%failure, causes = ?failure.causes, "no network yet");
            }
        }
        Err(failure) => tracing::warn!(%failure, "not reconciled yet"),
    }
}

/// Looks after the network (others flush firewalls and restart resolvers) and the stores of root disks.
async fn tend(state: Arc<State>) {
    let mut pace = tokio::time::interval(TENDING);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut told) = (None, Told::default());
    let mut helper = None;
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            () = state.helper.network_changed() => {}
        }
        // A helper that is away is told of below.
        if state.engine.list().iter().any(has_store)
            && let Ok(stores) = state.helper.stores().await
        {
            for (vm, warning) in told.news(stores) {
                tracing::warn!(%vm, "{warning}");
            }
        }
        let failure = state.helper.tend().await.err();
        if known != failure {
            if let Some(failure) = &failure {
                tracing::warn!(%failure, causes = ?failure.causes, "the network could not be tended");
            }
            known = failure;
        }
        // Another one may have lost what the last one knew.
        let now = state.helper.connected().map(|info| info.pid);
        if helper.is_some() && now.is_some() && helper != now {
            match state.engine.reconcile().await {
                Ok(report) => {
                    tracing::info!(?report, "another helper: reconciled");
                    state.note_problems(report.problems);
                }
                Err(failure) => tracing::warn!(%failure, "another helper: not reconciled"),
            }
        }
        helper = now.or(helper);
    }
}

/// The owner's home.
pub(crate) fn home() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    home.filter(|home| home.is_absolute())
        .unwrap_or_else(|| "/".into())
}

fn start_log(state_dir: &Path, level: LogLevel) -> Result<()> {
    let path = state_dir.join("bangerd.log");
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        fs::rename(&path, state_dir.join("bangerd.log.1"))?;
    }
    let file = fs::File::options().create(true).append(true).open(&path)?;
    let filter = tracing_subscriber::EnvFilter::new(format!("{},hyper=warn", level.as_str()));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(Mutex::new(file));
    subscriber
        .try_init()
        .map_err(|error| anyhow!("the log cannot be set up: {error}"))
}

/// What is needed for the network, and where the host is answered.
async fn network(args: &Args, config: &Config) -> Result<(NetworkNeeds, HostDns)> {
    let file = args.config_dir.join("config.toml").display().to_string();
    let plan = config.network().context(file.clone())?;
    let pool = config.tap_pool_size.unwrap_or(0);
    if pool > MAX_TAP_POOL {
        bail!(
            "{file}: tap_pool_size: {pool} is more than {MAX_TAP_POOL}; taps are made in no time, 0 is fine"
        );
    }
    let zone = Zone::new(plan.network(), plan.prefix).served_at(plan.bridge_ip);
    let resolvers = match config.default_dns {
        Some(server) => Resolvers::fixed(server.0),
        None => Resolvers::of_host(vec![plan.bridge_ip.into()]),
    };
    let dns = match DnsServer::start(args.dns_listen, zone.clone()).await {
        Ok(server) => HostDns::Serving(server),
        Err(error) => HostDns::Nowhere(chain(&error)),
    };
    let local = |at: SocketAddr| (at.ip() == Ipv4Addr::LOCALHOST).then(|| at.port());
    let names_port = dns.address().and_then(local);
    let needs = NetworkNeeds {
        plan,
        zone,
        forwarder: Forwarder::new(resolvers),
        names_port,
        pool: pool.into(),
        changed: tokio::sync::Notify::new(),
    };
    Ok((needs, dns))
}

fn chain(error: &dyn std::error::Error) -> String {
    let all = std::iter::successors(Some(error), |error| error.source());
    all.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn wire(args: Args, loaded: Loaded, overruled: Vec<&'static str>) -> Result<State> {
    let Loaded {
        config,
        origins,
        synced,
    } = loaded;
    let state_dir = args.state_dir.clone();
    let vms = state_dir.join("vms");
    let (needs, dns) = network(&args, &config).await?;
    let (bridge_ip, prefix) = (needs.plan.bridge_ip, needs.plan.prefix);
    let guest_addresses = needs.plan.hosts();
    let zone = needs.zone.clone();
    let probe = probe_kvm();
    let (accel, clock, boot_deadline) = if probe.works {
        (Accel::Kvm, GuestClock::Paravirtual, Duration::from_secs(90))
    } else {
        let khz = measure_tsc_khz(Duration::from_millis(20));
        (
            Accel::Tcg,
            GuestClock::EarlyTscKhz(khz),
            Duration::from_secs(300),
        )
    };
    let probe = Arc::new(HostProbe::new(probe, &state_dir));
    let default_image = match &config.default_image_name {
        Some(name) => name.clone(),
        None => DEFAULT_IMAGE.parse()?,
    };
    let owner_key = config
        .ssh_key_path
        .clone()
        .unwrap_or_else(|| args.config_dir.join("ssh/id_ed25519"));
    let key = keys::ensure(&owner_key, "banger")?;
    let images =
        ImageStore::open(state_dir.join("images")).context("the image store cannot be used")?;
    let kernels =
        KernelStore::open(state_dir.join("kernels")).context("the kernel store cannot be used")?;
    let boot_args = BootArgs {
        qemu: qemu_boot_args(clock),
        firecracker: firecracker_boot_args(),
    };
    let helper = Arc::new(HelperLink::new(&args, accel, boot_args, needs));
    let builder = match &args.build_socket {
        Some(socket) => Builder::Service(socket.clone()),
        None => Builder::Here,
    };
    let catalogs = Arc::new(Catalogs::new(
        &config.catalog,
        state_dir.join("catalog"),
        images.clone(),
        kernels.clone(),
    ));
    let local_images = Arc::new(LocalImages {
        builder: builder.clone(),
        catalogs: Arc::clone(&catalogs),
        store: images.clone(),
        default: default_image.clone(),
        logs: state_dir.join("logs"),
        building: Mutex::default(),
    });
    let ports = Ports {
        images: Arc::clone(&local_images) as Arc<_>,
        kernels: Arc::new(LocalKernels {
            store: kernels.clone(),
            catalogs: Arc::clone(&catalogs),
            initrds: state_dir.join("initrd"),
            agent: args.agent.clone(),
            importing: Mutex::default(),
        }),
        drives: Arc::new(VmDrives {
            root: vms.clone(),
            known_hosts: state_dir.join("known_hosts"),
            known_hosts_turn: Arc::default(),
            gateway: bridge_ip,
            prefix,
            owner_key: key.public,
            home: home(),
            synced: synced.into(),
        }),
        helper: Arc::<HelperLink>::clone(&helper),
        guests: Arc::new(AgentGuests { vms }),
        names: Arc::new(ZoneNames(zone)),
        space: Arc::new(DiskSpace {
            vms: state_dir.join("vms"),
        }),
        clock: Arc::new(HostClock::new()?),
    };
    let stale_after = config.auto_stop_stale_after.and_then(TimeSpan::on);
    let host = Host::here();
    let engine_config = EngineConfig {
        bridge_ip,
        guest_addresses,
        host_cpus: host.cpus,
        host_memory: host.memory,
        disk_reserve: config.disk_reserve(),
        boot_deadline,
        helper_patience: HELPER_PATIENCE,
    };
    let store = Store::open(&state_dir.join("banger.db"))
        .map_err(|error| open_failure(&error, &state_dir.join("vms")))?;
    let engine = Engine::open(ports, store, engine_config).await?;
    Ok(State {
        config,
        origins,
        overruled,
        builder,
        catalogs,
        host,
        engine,
        images,
        local_images,
        kernels,
        helper,
        default_image,
        probe,
        owner_key,
        dns,
        sampler: Sampler::default(),
        staleness: Staleness::new(stale_after),
        seeds: crate::seeds::Tried::default(),
        waiting: Waiting::default(),
        build: build_id()?,
        started_at: jiff::Timestamp::now().to_string(),
        reconciled: AtomicBool::new(false),
        problems: std::sync::Mutex::default(),
        reconciling: tokio::sync::Mutex::default(),
        stop: Arc::default(),
        args,
    })
}

/// What tells this executable from a rebuilt one: its inode and time.
fn build_id() -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata("/proc/self/exe")?;
    Ok(format!(
        "{}-{}-{}",
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}
