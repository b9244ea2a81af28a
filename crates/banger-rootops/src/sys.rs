//! Everything that the compiler cannot check: ioctls on taps, loop devices and device-mapper, one
//! socket option, and what a child does between fork and exec.
#![expect(
    unsafe_code,
    reason = "ioctl(2), setsockopt(2) and pre_exec have no safe form here"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use linux_raw_sys::if_tun::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR};
use linux_raw_sys::ioctl::{TUNSETIFF, TUNSETOWNER, TUNSETPERSIST};
use linux_raw_sys::loop_device::{
    LOOP_CONFIGURE, LOOP_CTL_GET_FREE, LOOP_GET_STATUS64, loop_config, loop_info64,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, FdFlags};
use rustix::ioctl::{Getter, IntegerSetter, Ioctl, IoctlOutput, Opcode, Setter, ioctl};
use rustix::process::{Gid, Resource, Rlimit, Uid};

/// `struct ifreq` (netdevice(7)) with the flags of `TUNSETIFF`; 40 bytes on 64-bit systems.
#[repr(C)]
struct TunRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Attaches to the tap of that name; it is made when there is none.
/// `Documentation/networking/tuntap.rst`.
pub(crate) fn open_tap(name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let tun = open("/dev/net/tun", flags, Mode::empty())?;
    let mut request = TunRequest {
        name: [0; 16],
        flags: (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) as u16,
        rest: [0; 22],
    };
    if name.len() >= request.name.len() {
        return Err(Errno::NAMETOOLONG);
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which has this layout; its length was
    // checked against the array that holds the name, which stays zero-terminated.
    unsafe { ioctl(&tun, Setter::<{ TUNSETIFF }, TunRequest>::new(request))? };
    Ok(tun)
}

/// Who may attach to the tap, and whether it outlives its last descriptor.
pub(crate) fn keep_tap(tap: &OwnedFd, owner: u32) -> Result<(), Errno> {
    set_tap_owner(tap, owner)?;
    // SAFETY: TUNSETPERSIST takes its argument by value.
    unsafe { ioctl(tap, IntegerSetter::<{ TUNSETPERSIST }>::new_usize(1)) }
}

/// Who may attach to the tap. Without an owner anybody may who can open `/dev/net/tun`.
pub(crate) fn set_tap_owner(tap: &OwnedFd, owner: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOWNER takes its argument by value.
    unsafe {
        ioctl(
            tap,
            IntegerSetter::<{ TUNSETOWNER }>::new_usize(owner as usize),
        )
    }
}

/// An ioctl without an argument whose result is a number.
struct Numbered(Opcode);

// SAFETY: the kernel is given no pointer, and the result is its return value.
unsafe impl Ioctl for Numbered {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> Result<Self::Output, Errno> {
        Ok(output)
    }
}

/// The number of a loop device that nobody uses yet (`/dev/loop-control`, loop(4)).
pub(crate) fn free_loop(control: &OwnedFd) -> Result<u32, Errno> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { ioctl(control, Numbered(LOOP_CTL_GET_FREE))? };
    u32::try_from(number).map_err(|_| Errno::INVAL)
}

/// Binds a loop device to a file, in one step (Linux 5.8).
pub(crate) fn configure_loop(device: &OwnedFd, config: loop_config) -> Result<(), Errno> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`.
    unsafe {
        ioctl(
            device,
            Setter::<{ LOOP_CONFIGURE }, loop_config>::new(config),
        )
    }
}

/// What a loop device is bound to. ENXIO when to nothing.
pub(crate) fn loop_status(device: &OwnedFd) -> Result<loop_info64, Errno> {
    // SAFETY: LOOP_GET_STATUS64 writes one `struct loop_info64`.
    unsafe { ioctl(device, Getter::<{ LOOP_GET_STATUS64 }, loop_info64>::new()) }
}

/// A device-mapper command on a packet that begins with `struct dm_ioctl`.
struct DmCommand<'a>(Opcode, &'a mut [u8]);

// SAFETY: the kernel reads and writes at most `data_size` bytes, which is set to the slice's length
// before the call; the opcodes of device-mapper all take this structure.
unsafe impl Ioctl for DmCommand<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.1.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut std::ffi::c_void) -> Result<(), Errno> {
        Ok(())
    }
}

/// Gives device-mapper a command (`include/uapi/linux/dm-ioctl.h`); the answer is in the packet.
/// `number` is the command's, as in that header's enum.
pub(crate) fn dm_command(control: &OwnedFd, number: u8, packet: &mut [u8]) -> Result<(), Errno> {
    const DATA_SIZE: std::ops::Range<usize> = 12..16;
    if packet.len() < DM_IOCTL_LENGTH {
        return Err(Errno::INVAL);
    }
    let length = u32::try_from(packet.len()).map_err(|_| Errno::INVAL)?;
    packet[DATA_SIZE].copy_from_slice(&length.to_ne_bytes());
    let opcode = rustix::ioctl::opcode::read_write::<[u8; DM_IOCTL_LENGTH]>(0xfd, number);
    // SAFETY: the packet has room for the structure, and its length stands in it.
    unsafe { ioctl(control, DmCommand(opcode, packet)) }
}

/// The length of `struct dm_ioctl`.
pub(crate) const DM_IOCTL_LENGTH: usize = 312;

/// Binds a socket to one network interface (socket(7), `SO_BINDTODEVICE`).
pub(crate) fn bind_to_device(socket: BorrowedFd<'_>, device: &str) -> Result<(), io::Error> {
    let length = libc::socklen_t::try_from(device.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and length describe `device`, which lives through the call; the kernel
    // copies it and needs no terminating zero.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_ptr().cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a child is confined to.
pub(crate) struct Confinement<'a> {
    /// Its working directory.
    pub(crate) directory: BorrowedFd<'a>,
    /// The descriptors that it inherits, besides the standard ones, under their own numbers.
    pub(crate) keep: &'a [BorrowedFd<'a>],
    /// Its user and group.
    pub(crate) uid: u32,
    /// Groups besides.
    pub(crate) groups: &'a [u32],
}

/// Starts `command` in a session of its own, as another user, with no way back. The descriptors
/// of `confinement` must stay open until this returns, which is after the child's exec.
pub(crate) fn spawn_confined(
    mut command: Command,
    confinement: &Confinement<'_>,
) -> Result<std::process::Child, io::Error> {
    let directory = confinement.directory.as_raw_fd();
    let keep: Vec<RawFd> = confinement.keep.iter().map(AsRawFd::as_raw_fd).collect();
    let groups: Vec<Gid> = confinement
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (
        Uid::from_raw(confinement.uid),
        Gid::from_raw(confinement.uid),
    );
    let prepare = move || {
        rustix::process::setsid()?;
        // SAFETY: the caller keeps the descriptor open until the exec.
        rustix::process::fchdir(unsafe { BorrowedFd::borrow_raw(directory) })?;
        for fd in &keep {
            // SAFETY: as above.
            let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
            rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
        }
        unblock_signals()?;
        // What it makes is its group's too, which is its own: the group's bits are what the owner's
        // entry in the inherited access list is cut down to (acl(5), mask).
        rustix::process::umask(Mode::RWXO);
        limit(Resource::Core, 0)?;
        limit(Resource::Nofile, 4096)?;
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        rustix::thread::set_no_new_privs(true)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls only; it allocates nothing and
    // takes no lock. What it reads was made before the fork.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// A child inherits what its parent blocks, and the helper blocks the signals that it waits for.
fn unblock_signals() -> Result<(), io::Error> {
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set that pthread_sigmask then reads; both are
    // async-signal-safe (signal-safety(7)).
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn limit(resource: Resource, value: u64) -> Result<(), Errno> {
    let both = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::setrlimit(resource, both)
}

const _: () = assert!(size_of::<TunRequest>() == 40 && size_of::<c_int>() == 4);
