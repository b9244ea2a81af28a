//! A host with a few VMs, the same each time.

use banger_api::{
    ApiError, AtWork, Availability, AvailableImage, AvailableKernel, CatalogView, Check,
    CheckResult, ConfigEntry, ConfigOrigin, ConfigView, DaemonStatus, Deleted, DiskFigures, Doctor,
    EffectiveDefault, FileSystemFigures, GuestFigures, HostFigures, Image, ImageList,
    ImageRunConfig, Kernel, KernelList, Operation, OperationEvent, OperationKind, OperationState,
    Port, PortList, PortProtocol, Readiness, RootFill, SpecLine, SshAccess, Stage, StageState,
    StatsList, UnpulledList, UnpulledWorkspace, Vm, VmList, VmPaths, VmStats, WorkSeedOrigin,
};
use banger_core::{ByteSize, ErrorCode, MemoryMib, SpecOrigin};

use crate::stand_in::Answers;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn text(text: &str) -> String {
    text.to_owned()
}

fn some(it: &str) -> Option<String> {
    Some(text(it))
}

/// The failure of a create whose kernel found no root.
pub(crate) fn boot_failed() -> ApiError {
    ApiError {
        causes: vec![text(
            "the console ends with: VFS: Cannot open root device | Kernel panic - not syncing",
        )],
        subject: some("broken"),
        op_id: some("00000000000b"),
        ..ApiError::new(
            ErrorCode::BootFailed,
            "stage `guest agent` failed: the VMM ended without a farewell from the guest",
        )
        .hint("`banger vm logs` shows the whole console")
    }
}

pub(crate) fn not_found() -> ApiError {
    ApiError::new(ErrorCode::VmNotFound, "there is no VM `demu`").hint("did you mean `demo`?")
}

fn vm(name: &str, number: u8) -> Vm {
    let id = format!("0123456789{number:02x}");
    let path = |file: &str| format!("/home/ann/.local/state/banger/vms/{id}/{file}");
    Vm {
        name: text(name),
        phase: text("running"),
        pause_reason: None,
        intent: text("running"),
        readiness: Readiness::Ready,
        address: format!("172.16.0.{number}"),
        dns_name: format!("{name}.vm"),
        image: text("debian-bookworm"),
        image_digest: "5f2c".repeat(16),
        kernel: text("debian-cloud"),
        vcpu: 2,
        memory_mib: 4096,
        disk_size: 8 * GIB,
        nat: false,
        vmm: text("firecracker"),
        storage: text("dm_snapshot"),
        root_fill: None,
        vmm_pid: Some(5000 + u32::from(number)),
        ephemeral: false,
        created_at: text("2026-11-02T08:00:00Z"),
        started_at: some("2026-11-02T08:00:09Z"),
        last_error: None,
        operation: None,
        stops_unused_in_s: None,
        warnings: vec![],
        paths: VmPaths {
            overlay: path("root.cow"),
            work_disk: path("work.ext4"),
            console_log: path("console.log"),
            vmm_log: path("run/vmm.log"),
        },
        id,
    }
}

fn stopped(name: &str, number: u8) -> Vm {
    Vm {
        phase: text("stopped"),
        intent: text("stopped"),
        readiness: Readiness::None,
        vmm_pid: None,
        started_at: None,
        ..vm(name, number)
    }
}

fn vms() -> [Vm; 5] {
    let demo = Vm {
        nat: true,
        ..vm("demo", 2)
    };
    let broken = Vm {
        phase: text("failed"),
        last_error: Some(boot_failed()),
        vmm: text("qemu"),
        storage: text("qcow2"),
        image: text("tool"),
        ..stopped("broken", 3)
    };
    let idle = Vm {
        stops_unused_in_s: Some(540),
        memory_mib: 512,
        vcpu: 1,
        ..vm("idle", 4)
    };
    let paused = Vm {
        phase: text("paused"),
        pause_reason: some(
            "the host's disk is nearly full: less than 512 MiB (disk_reserve) was left",
        ),
        ..vm("paused", 5)
    };
    let spare = Vm {
        operation: Some(AtWork {
            id: text("000000000021"),
            kind: OperationKind::SetVm,
        }),
        ..stopped("spare", 6)
    };
    [broken, demo, idle, paused, spare]
}

/// `demo` as it is when it is asked for by itself.
fn demo_alone() -> Vm {
    let [_, demo, ..] = vms();
    Vm {
        root_fill: Some(RootFill {
            used_bytes: Some(310 * MIB),
            total_bytes: Some(8 * GIB),
            warning: None,
        }),
        warnings: vec![text(
            "file_sync: /home/ann/.netrc is not there: it is left out",
        )],
        ..demo
    }
}

fn stats(vm: &Vm) -> VmStats {
    let runs = vm.phase == "running";
    let disk = |disk: &str, real_bytes| DiskFigures {
        disk: text(disk),
        virtual_bytes: Some(8 * GIB),
        real_bytes,
        fill: None,
    };
    let host = HostFigures {
        cpu_percent: Some(12.5),
        cpu_seconds: 34.5,
        memory: 700 * MIB,
        network_received: Some(1500),
        network_sent: Some(3 * MIB),
        uptime_seconds: Some(3700.2),
    };
    let guest = GuestFigures {
        cpu_percent: Some(3.1),
        cpu_seconds: 12.0,
        load: 0.25,
        memory_total: 4 * GIB,
        memory_used: 300 * MIB,
        processes: 80,
        file_systems: vec![FileSystemFigures {
            path: text("/"),
            total: 8 * GIB,
            used: GIB,
        }],
        network_received: 1400,
        network_sent: 3 * MIB,
        uptime_seconds: 3699.0,
    };
    let answers = vm.name != "idle";
    VmStats {
        vm: vm.name.clone(),
        id: vm.id.clone(),
        phase: vm.phase.clone(),
        host: runs.then_some(host),
        guest: (runs && answers).then_some(guest),
        guest_problem: (runs && !answers).then(|| text("the guest's agent does not answer")),
        disks: vec![disk("root", 5 * MIB), disk("work", 70 * MIB)],
    }
}

fn ports() -> PortList {
    let web = Port {
        protocol: PortProtocol::Tcp,
        port: 8080,
        bind: text("0.0.0.0"),
        address: some("172.16.0.2:8080"),
        pid: Some(412),
        process: some("node"),
        uid: 0,
        user: some("root"),
        url: some("http://demo.vm:8080/"),
        http_status: Some(200),
    };
    let own = Port {
        port: 5432,
        bind: text("127.0.0.1"),
        address: None,
        process: some("postgres"),
        uid: 105,
        user: some("postgres"),
        url: None,
        http_status: None,
        ..web.clone()
    };
    let names = Port {
        protocol: PortProtocol::Udp,
        port: 5353,
        pid: None,
        process: None,
        address: some("172.16.0.2:5353"),
        ..own.clone()
    };
    PortList {
        vm: text("demo"),
        ports: vec![own, web, names],
        cut: false,
    }
}

fn images() -> [Image; 3] {
    let built = Image {
        name: text("debian-bookworm"),
        default: true,
        digest: "5f2c".repeat(16),
        origin: text("built"),
        reference: None,
        config: None,
        rootfs: text("/home/ann/.local/state/banger/images/debian-bookworm/5f2c/root.ext4"),
        work_seed: some("/home/ann/.local/state/banger/images/debian-bookworm/5f2c/work.ext4"),
        work_seed_state: text("current"),
        work_seed_origin: Some(WorkSeedOrigin {
            format: 1,
            made_from: "5f2c".repeat(16),
        }),
        kernel: None,
        size: 8 * GIB,
        disk_usage: 900 * MIB,
        recipe_fingerprint: some("0a1b2c3d"),
        stale: true,
        changed: None,
        created_at: text("2026-11-01T07:00:00Z"),
        contents: vec![text("systemd 252"), text("docker 20.10.24")],
        catalog: some("https://images.example/banger"),
        ready: vec![text("ssh.service")],
        built_on: None,
    };
    let mine = Image {
        name: text("mine"),
        default: false,
        digest: "77aa".repeat(16),
        origin: text("registered"),
        rootfs: text("/srv/images/mine.ext4"),
        work_seed: None,
        work_seed_state: text("missing"),
        work_seed_origin: None,
        kernel: some("generic-6.12"),
        recipe_fingerprint: None,
        stale: false,
        changed: some("/srv/images/mine.ext4"),
        contents: vec![],
        catalog: None,
        ready: vec![],
        ..built.clone()
    };
    let tool = Image {
        name: text("tool"),
        default: false,
        digest: "90ef".repeat(16),
        origin: text("pulled"),
        reference: some("docker.io/library/tool:1"),
        config: Some(ImageRunConfig {
            entrypoint: vec![text("/bin/tool")],
            cmd: vec![text("--serve")],
            env: vec![text("LANG=C")],
            user: text("tool"),
            working_dir: text("/srv"),
            exposed_ports: vec![text("80/tcp")],
            stop_signal: text("SIGTERM"),
        }),
        changed: None,
        contents: vec![text("no init: the agent is its first process")],
        rootfs: text("/home/ann/.local/state/banger/images/tool/90ef/root.ext4"),
        kernel: None,
        disk_usage: 12 * MIB,
        ..mine.clone()
    };
    [built, mine, tool]
}

fn catalog() -> CatalogView {
    let image = AvailableImage {
        name: text("debian-bookworm"),
        digest: "5f2c".repeat(16),
        created_at: text("2026-11-01T07:00:00Z"),
        download: 300 * MIB,
        size: 8 * GIB,
        kernel: some("generic-6.12"),
        contents: vec![text("systemd 252")],
        state: Availability::Present,
    };
    let kernel = AvailableKernel {
        name: text("generic-6.12"),
        release: text("6.12.9"),
        digest: "c0de".repeat(16),
        source: text("/srv/vmlinux"),
        created_at: text("2026-11-01T06:00:00Z"),
        download: 14 * MIB,
        state: Availability::Other,
    };
    CatalogView {
        location: text("https://images.example/banger"),
        created_at: text("2026-11-02T06:00:00Z"),
        images: vec![
            image.clone(),
            AvailableImage {
                name: text("small"),
                kernel: None,
                state: Availability::Absent,
                ..image
            },
        ],
        kernels: vec![kernel],
    }
}

fn kernels() -> [Kernel; 2] {
    let cloud = Kernel {
        name: text("debian-cloud"),
        release: text("6.1.0-40-cloud-amd64"),
        digest: "c0de".repeat(16),
        source: text("linux-image-cloud-amd64"),
        vmlinux: text("/home/ann/.local/state/banger/kernels/debian-cloud/vmlinux"),
        modules: some("/home/ann/.local/state/banger/kernels/debian-cloud/modules.ext4"),
        segment: text("/home/ann/.local/state/banger/kernels/debian-cloud/initrd-kernel.cpio"),
        initrd: None,
        default: true,
        created_at: text("2026-11-01T06:00:00Z"),
    };
    let generic = Kernel {
        name: text("generic-6.12"),
        release: text("6.12.9"),
        source: text("/srv/vmlinux"),
        modules: None,
        default: false,
        ..cloud.clone()
    };
    [cloud, generic]
}

fn doctor() -> Doctor {
    let check = |name: &str, result, message: &str, fix: Option<&str>| Check {
        name: text(name),
        result,
        message: text(message),
        fix: fix.map(text),
    };
    let default = |key: &str, value: &str, origin: &str, source: Option<&str>| EffectiveDefault {
        key: text(key),
        value: text(value),
        origin: text(origin),
        source: source.map(text),
    };
    Doctor {
        checks: vec![
            check(
                "vmm",
                CheckResult::Pass,
                "new VMs: firecracker, which is there and KVM works",
                None,
            ),
            check(
                "space",
                CheckResult::Warn,
                "2.1 GiB are free for disks",
                Some("make room, or move the state directory"),
            ),
            check(
                "nft",
                CheckResult::Fail,
                "`nft` is missing: the firewall is set with it",
                Some("apt install nftables"),
            ),
        ],
        defaults: vec![
            default("vcpu", "2", "host", None),
            default(
                "memory_mib",
                "4096",
                "config",
                Some("/home/ann/.config/banger/config.toml:3"),
            ),
        ],
    }
}

fn config() -> ConfigView {
    let entry = |key: &str, value: &str, origin| ConfigEntry {
        key: text(key),
        value: text(value),
        origin,
        file: None,
        line: None,
        variable: None,
    };
    ConfigView {
        file: text("/home/ann/.config/banger/config.toml"),
        changed: true,
        entries: vec![
            ConfigEntry {
                file: some("/home/ann/.config/banger/config.toml"),
                line: Some(3),
                ..entry("vm_defaults.memory_mib", "4096", ConfigOrigin::File)
            },
            ConfigEntry {
                variable: some("BANGER_LOG_LEVEL"),
                ..entry("log_level", "\"debug\"", ConfigOrigin::Environment)
            },
            entry("cidr", "\"172.16.0.0/24\"", ConfigOrigin::Default),
        ],
    }
}

fn daemon(answers: &mut Answers) {
    let version = crate::stand_in::version();
    let status = DaemonStatus {
        version: banger_api::Version {
            daemon: banger_api::Component {
                build: text("1-2-3"),
                ..version.daemon
            },
            ..version
        },
        socket: text("/run/user/1000/banger/bangerd.sock"),
        log: text("/home/ann/.local/state/banger/bangerd.log"),
        dns: text("127.0.0.1:42069"),
        state_dir: text("/home/ann/.local/state/banger"),
        running_vms: 3,
        vms: 5,
        started_at: text("2026-11-02T07:59:00Z"),
        problems: vec![text(
            "the database knows no VM 0123456789ff; its disks are kept in /home/ann/.local/state/banger/lost/0123456789ff",
        )],
    };
    answers.ok("GET /v1/daemon", &status);
}

/// An operation on one of them: how it ended, and its stream.
fn operation(answers: &mut Answers, number: u8, kind: OperationKind, subject: &str) -> Operation {
    let id = format!("{number:012x}");
    let stage = |key: &str, title: &str, elapsed_ms, state| Stage {
        key: text(key),
        title: text(title),
        state,
        elapsed_ms,
        detail: None,
    };
    let failed = subject == "broken" && kind == OperationKind::CreateVm;
    let stages = match kind {
        OperationKind::CreateVm => vec![
            stage("image", "image", 3, StageState::Done),
            stage("network", "network", 11, StageState::Done),
            stage("boot", "starting the VMM", 140, StageState::Done),
            if failed {
                stage("agent", "guest agent", 2400, StageState::Failed)
            } else {
                stage("agent", "guest agent", 1310, StageState::Done)
            },
        ],
        _ => vec![stage("work", "the work", 900, StageState::Done)],
    };
    let spec = SpecLine {
        vcpu: 2,
        memory_mib: MemoryMib(4096),
        disk_size: ByteSize(8 * GIB),
        origins: SpecOrigin::Host.into(),
    };
    let begun = Operation {
        id: id.clone(),
        kind,
        subject: text(subject),
        vm_id: None,
        state: OperationState::Running,
        stages: vec![],
        error: None,
        spec: (kind == OperationKind::CreateVm).then_some(spec),
        warnings: vec![],
    };
    let finished = Operation {
        state: match failed {
            true => OperationState::Failed,
            false => OperationState::Succeeded,
        },
        error: failed.then(boot_failed),
        stages: stages.clone(),
        ..begun.clone()
    };
    let mut events = vec![OperationEvent::Snapshot {
        operation: begun.clone(),
    }];
    events.extend(
        stages
            .into_iter()
            .map(|stage| OperationEvent::Stage { stage }),
    );
    events.push(OperationEvent::Finished {
        operation: finished,
    });
    let lines = events
        .iter()
        .map(|event| serde_json::to_string(event).unwrap() + "\n");
    answers.bytes(
        &format!("GET /v1/operations/{id}/events"),
        lines.collect::<String>().into(),
    );
    begun
}

/// Everything that is answered.
pub(crate) fn answers() -> Answers {
    let mut answers = Answers::default();
    let all = vms();
    answers.ok("GET /v1/vms", &VmList { vms: all.to_vec() });
    answers.ok(
        "GET /v1/stats",
        &StatsList {
            vms: all.iter().map(stats).collect(),
        },
    );
    for vm in &all {
        let at = format!("/v1/vms/{}", vm.name);
        answers.ok(&format!("GET {at}"), vm);
        answers.ok(&format!("GET {at}/stats"), &stats(vm));
        let mut held = UnpulledList {
            vm: vm.name.clone(),
            workspaces: vec![],
            unknown: None,
        };
        if vm.name == "spare" {
            held.workspaces.push(UnpulledWorkspace {
                path: text("/root/repo"),
                commits: 2,
                tags: 0,
                files: vec![text("notes.txt")],
                more_files: 0,
            });
        }
        answers.ok(&format!("GET {at}/unpulled"), &held);
    }
    answers.ok("GET /v1/vms/demo", &demo_alone());
    answers.ok("GET /v1/vms/demo/ports", &ports());
    answers.bytes(
        "GET /v1/vms/demo/logs",
        b"[    0.000000] Linux version 6.1.0\n".to_vec(),
    );
    for method in ["GET", "DELETE"] {
        answers.status(&format!("{method} /v1/vms/demu"), 404, &not_found());
    }
    answers.status("GET /v1/vms/demu/unpulled", 404, &not_found());
    let busy = ApiError::new(ErrorCode::VmRunning, "the VM `demo` runs")
        .hint("stop it first: banger vm stop demo");
    answers.status("PATCH /v1/vms/demo", 409, &busy);
    let create = operation(&mut answers, 10, OperationKind::CreateVm, "demo");
    answers.status("POST /v1/vms", 202, &create);
    for (number, verb, kind) in [
        (20, "start", OperationKind::StartVm),
        (21, "stop", OperationKind::StopVm),
        (22, "restart", OperationKind::RestartVm),
        (23, "kill", OperationKind::KillVm),
    ] {
        let begun = operation(&mut answers, number, kind, "demo");
        answers.status(&format!("POST /v1/vms/demo/{verb}"), 202, &begun);
        answers.status(&format!("POST /v1/vms/demu/{verb}"), 404, &not_found());
    }
    for (number, name) in [(30, "broken"), (31, "spare"), (32, "demo")] {
        let begun = operation(&mut answers, number, OperationKind::DeleteVm, name);
        answers.status(&format!("DELETE /v1/vms/{name}"), 202, &begun);
        answers.status(&format!("DELETE /v1/vms/{}", id_of(name)), 202, &begun);
    }
    let set = operation(&mut answers, 33, OperationKind::SetVm, "spare");
    answers.status("PATCH /v1/vms/spare", 202, &set);
    the_rest(&mut answers);
    answers
}

fn id_of(name: &str) -> String {
    let vm = vms().into_iter().find(|vm| vm.name == name);
    vm.unwrap().id
}

/// Images, kernels, and the host.
fn the_rest(answers: &mut Answers) {
    let (images, kernels) = (images().to_vec(), kernels().to_vec());
    answers.ok(
        "GET /v1/images",
        &ImageList {
            images: images.clone(),
        },
    );
    for image in &images {
        answers.ok(&format!("GET /v1/images/{}", image.name), image);
    }
    answers.ok(
        "GET /v1/kernels",
        &KernelList {
            kernels: kernels.clone(),
        },
    );
    for kernel in &kernels {
        answers.ok(&format!("GET /v1/kernels/{}", kernel.name), kernel);
    }
    for (number, route, kind, subject) in [
        (40, "images/pull", OperationKind::PullImage, "tool"),
        (
            41,
            "images/build",
            OperationKind::BuildImage,
            "debian-bookworm",
        ),
        (42, "images/register", OperationKind::RegisterImage, "mine"),
        (
            43,
            "images/mine/promote",
            OperationKind::PromoteImage,
            "mine",
        ),
        (
            44,
            "kernels/import",
            OperationKind::ImportKernel,
            "generic-6.12",
        ),
        (
            45,
            "catalog/kernels/generic-6.12",
            OperationKind::ImportKernel,
            "generic-6.12",
        ),
        (
            46,
            "catalog/images/debian-bookworm",
            OperationKind::PullImage,
            "debian-bookworm",
        ),
    ] {
        let begun = operation(answers, number, kind, subject);
        answers.status(&format!("POST /v1/{route}"), 202, &begun);
    }
    answers.ok("GET /v1/catalog", &catalog());
    let deleted = |name: &str| Deleted {
        name: text(name),
        freed: 12 * MIB,
    };
    answers.ok("DELETE /v1/images/tool", &deleted("tool"));
    answers.ok("DELETE /v1/kernels/generic-6.12", &deleted("generic-6.12"));
    let in_use = ApiError::new(
        ErrorCode::InUse,
        "the image `debian-bookworm` is used by demo, idle",
    )
    .hint("delete these VMs first");
    answers.status("DELETE /v1/images/debian-bookworm", 409, &in_use);
    answers.ok("GET /v1/doctor", &doctor());
    answers.ok("GET /v1/config", &config());
    let access = SshAccess {
        user: text("root"),
        identity_file: text("/home/ann/.config/banger/ssh/id_ed25519"),
        known_hosts: text("/home/ann/.local/state/banger/known_hosts"),
    };
    answers.ok("GET /v1/ssh", &access);
    daemon(answers);
}

/// The same host when a create fails.
pub(crate) fn failing() -> Answers {
    let mut answers = answers();
    let create = operation(&mut answers, 11, OperationKind::CreateVm, "broken");
    answers.status("POST /v1/vms", 202, &create);
    answers
}

/// A host on which nothing was made yet.
pub(crate) fn empty() -> Answers {
    let mut answers = Answers::default();
    answers.ok("GET /v1/vms", &VmList::default());
    answers.ok("GET /v1/stats", &StatsList::default());
    answers.ok("GET /v1/images", &ImageList::default());
    answers.ok("GET /v1/kernels", &KernelList::default());
    answers
}
