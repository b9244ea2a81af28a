//! The VM: one QEMU without KVM, its network restricted to the forwarded ssh port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use banger_vmm::measure_tsc_khz;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::disk::Disk;
use crate::emulator::Emulator;
use crate::folder::Folder;
use crate::host::Host;
use crate::leash::Leash;
use crate::payload::Payload;
use crate::{qmp, ssh, wait};

/// What the host's kernel is told. Emulated processors count with the real one's TSC, together; a kernel left
/// to itself finds them "unsynchronized" and asks an emulated timer for the time, under QEMU's one lock, which
/// costs most of both processors. Without random addresses a program that starts again is not translated again:
/// twice as many processes a second. Retpolines defeat the caching of jumps, and protect nobody here.
fn kernel_args() -> String {
    let khz = measure_tsc_khz(Duration::from_millis(20));
    format!(
        "root=/dev/vda rw console=ttyS0 quiet loglevel=4 systemd.show_status=0 net.ifnames=1 \
         tsc=reliable tsc_early_khz={khz} mitigations=off norandmaps"
    )
}

/// How long the host may take to answer by ssh.
const BOOT: Duration = Duration::from_secs(240);

/// What a VM gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineOptions {
    /// Memory.
    pub(crate) memory_mib: u32,
    /// After which it is ended whatever it does.
    pub(crate) limit: Duration,
}

/// A VM that ends with the value, and with this process.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    qmp: PathBuf,
    leash: Leash,
    folder: Folder,
}

impl Machine {
    /// Starts it. Its disk is an overlay that nothing remembers.
    pub(crate) fn start(
        emulator: &Emulator,
        disk: &Disk,
        folder: Folder,
        payload: &Payload,
        options: &MachineOptions,
        leash: &Leash,
    ) -> Result<Self> {
        let port = free_port()?;
        ssh::write_config(&folder, port)?;
        let qmp = folder.sockets().join("qmp");
        std::os::unix::fs::symlink(&qmp, folder.path().join("qmp"))?;
        // The overlay's file, which has no name, lies here.
        let overlay = folder.path().join("tmp");
        fs::create_dir_all(&overlay)?;
        let stderr = File::create(folder.path().join("qemu.log"))?;
        let drive = |path: &std::path::Path, rest: &str| {
            format!("file={},if=virtio,format=raw,{rest}", path.display())
        };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL"])
            .arg(emulator.program())
            .args([
                "-M",
                "q35,accel=tcg,smm=off",
                "-cpu",
                "max,la57=off",
                "-smp",
                "2",
            ])
            .args(["-m", &options.memory_mib.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-kernel")
            .arg(disk.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(disk.folder.join("initrd"))
            .args(["-append", &kernel_args()])
            .args([
                "-drive",
                &drive(&disk.folder.join("disk.ext4"), "snapshot=on,discard=unmap"),
            ])
            .args(["-drive", &drive(&payload.image, "readonly=on")])
            .args([
                "-netdev",
                &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
            ])
            .args([
                "-device",
                "virtio-net-pci,netdev=n0,romfile=",
                "-device",
                "virtio-rng-pci",
            ])
            .args([
                "-serial",
                &format!("file:{}", folder.path().join("console.log").display()),
            ])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", qmp.display()),
            ])
            .env("TMPDIR", overlay)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        // Not through a thread: the VM is killed with the thread that started it.
        let qemu = command.spawn().context("starting the host's QEMU")?;
        let machine = Self {
            qemu,
            qmp,
            leash: leash.clone(),
            folder,
        };
        machine.leash.hold(machine.pidfd()?, options.limit);
        Ok(machine)
    }

    fn pidfd(&self) -> Result<Arc<OwnedFd>> {
        let raw = i32::try_from(self.qemu.id()).ok().and_then(Pid::from_raw);
        let pid = raw.context("QEMU has no process id")?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).context("watching QEMU")?;
        Ok(Arc::new(fd))
    }

    /// The run's folder.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Waits until the host lets root in.
    pub(crate) fn wait_for_ssh(&self) -> Result<Host> {
        let host = Host::new(self.folder.path(), Some(self.qmp.clone()));
        let up = wait::until("the host answers by ssh", BOOT, || {
            if let Some(reason) = self.leash.pulled() {
                bail!("the host was ended: {reason}");
            }
            if qmp::execute(&self.qmp, "query-status").is_err() && !self.is_alive() {
                let log = fs::read_to_string(self.folder.path().join("qemu.log"));
                bail!("QEMU ended: {}", log.unwrap_or_default().trim());
            }
            Ok(host.answers().then_some(()))
        });
        up.with_context(|| {
            format!(
                "the host did not come up; its console ends with:\n{}",
                self.console_tail()
            )
        })?;
        Ok(host)
    }

    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.qemu.id()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn console_tail(&self) -> String {
        let text = fs::read(self.folder.path().join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Waits until QEMU ends.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.qemu.wait()?;
        match self.leash.pulled() {
            Some(reason) => println!("host-vm: the host was ended: {reason}"),
            None => println!("host-vm: the host ended ({status})"),
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        ssh::Ssh::new(self.folder.path()).hang_up();
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A port of loopback that is free now.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
