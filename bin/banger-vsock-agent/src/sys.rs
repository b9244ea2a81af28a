//! The system calls that no safe crate offers: vsock addresses, signalfd, fork, posix_spawn.
#![expect(
    unsafe_code,
    reason = "vsock addresses, signalfd, fork and posix_spawn have no safe wrapper in our crates"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The context id of the host (vsock(7)).
pub(crate) const HOST_CID: u32 = libc::VMADDR_CID_HOST;

/// How much a vsock stream buffers, in bytes: a guest kernel may reset a stream whose many small
/// packets overrun a small buffer.
const VSOCK_BUFFER: u64 = 8 << 20;

/// `SO_VM_SOCKETS_BUFFER_SIZE` and `SO_VM_SOCKETS_BUFFER_MAX_SIZE` (`linux/vm_sockets.h`).
const BUFFER_SIZE: libc::c_int = 0;
const BUFFER_MAX_SIZE: libc::c_int = 2;

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain data, for which all zeros is a value.
    let mut address: libc::sockaddr_vm = unsafe { mem::zeroed() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const ADDRESS_SIZE: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// A vsock listener on every context id.
pub(crate) fn vsock_listen(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are involved.
    let fd = check(unsafe { libc::socket(libc::AF_VSOCK, kind, 0) })?;
    // SAFETY: the kernel has just given us this descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [BUFFER_MAX_SIZE, BUFFER_SIZE] {
        // SAFETY: the value outlives the call, and its size is given. Accepted streams inherit it.
        check(unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::AF_VSOCK,
                option,
                ptr::from_ref(&VSOCK_BUFFER).cast(),
                size_of::<u64>() as libc::socklen_t,
            )
        })?;
    }
    let address = vsock_address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the address outlives the call, and its size is given.
    check(unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), ADDRESS_SIZE) })?;
    // SAFETY: no pointers are involved.
    check(unsafe { libc::listen(fd.as_raw_fd(), 64) })?;
    Ok(fd)
}

/// The next connection, and the context id it comes from.
pub(crate) fn vsock_accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, u32)> {
    let mut address = vsock_address(0, 0);
    let mut size = ADDRESS_SIZE;
    // SAFETY: address and size outlive the call, and size says how long the address is.
    let fd = check(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::from_mut(&mut address).cast(),
            &raw mut size,
            libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address.svm_cid))
}

fn signal_set(numbers: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset then takes any number and refuses bad ones.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in numbers {
            libc::sigaddset(set.as_mut_ptr(), *number);
        }
        set.assume_init()
    }
}

/// Blocks these signals for the thread and those it starts, and makes a descriptor that they are
/// read from.
pub(crate) fn signal_fd(numbers: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(numbers);
    // SAFETY: the set is initialised and outlives both calls.
    let fd = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        check(libc::signalfd(
            -1,
            &raw const set,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        ))?
    };
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal's number, when one has come.
pub(crate) fn read_signal(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let count = rustix::io::read(fd, &mut info).ok()?;
    // `ssi_signo` is the first field, a u32.
    let number = info.get(..4).filter(|_| count == info.len())?;
    i32::try_from(u32::from_ne_bytes(number.try_into().ok()?)).ok()
}

/// How many bytes that were written to a terminal have not left it (`TIOCOUTQ`, ioctl_tty(2)).
///
/// # Errors
/// It is no terminal.
pub(crate) fn unsent_bytes(terminal: BorrowedFd<'_>) -> io::Result<i32> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which outlives the call.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) })?;
    Ok(count)
}

/// Splits the process in two; `None` in the child. Only called while there is one thread.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: there is one thread, so no lock can be held by another that the child lacks.
    let pid = check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid))
}

/// A program about to be started, as the leader of a session of its own.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub(crate) program: CString,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) streams: Streams<'a>,
}

/// What the program's standard streams are.
#[derive(Debug)]
pub(crate) enum Streams<'a> {
    /// Three descriptors.
    Pipes([BorrowedFd<'a>; 3]),
    /// The terminal of this path, which becomes the controlling one.
    Terminal(CString),
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init initialises it; on success it is complete.
        spawn_check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: as said.
        Ok(Self(unsafe { raw.assume_init() }))
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: it was initialised by `new` and is not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: init initialises it; on success it is complete.
        spawn_check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: as said.
        Ok(Self(unsafe { raw.assume_init() }))
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: it was initialised by `new` and is not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

fn spawn_check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let each = strings.iter().map(|s| s.as_ptr().cast_mut());
    each.chain([ptr::null_mut()]).collect()
}

impl Spawn<'_> {
    /// Starts it: its own session, no blocked signals, default dispositions. The C library does it
    /// by vfork, which does not copy page tables: a third of the cost of a fork in a guest.
    pub(crate) fn start(&self) -> io::Result<Pid> {
        let mut attributes = Attributes::new()?;
        let mut actions = Actions::new()?;
        let none = signal_set(&[]);
        let all: Vec<i32> = (1..=31).filter(|n| ![9, 19].contains(n)).collect();
        let all = signal_set(&all);
        let flags = libc::POSIX_SPAWN_SETSID
            | libc_flag(libc::POSIX_SPAWN_SETSIGMASK)
            | libc_flag(libc::POSIX_SPAWN_SETSIGDEF);
        // SAFETY: attributes and actions are initialised; strings and sets outlive the calls, and
        // the C library copies what it keeps.
        unsafe {
            let raw = &raw mut attributes.0;
            spawn_check(libc::posix_spawnattr_setflags(raw, flags))?;
            spawn_check(libc::posix_spawnattr_setsigmask(raw, &raw const none))?;
            spawn_check(libc::posix_spawnattr_setsigdefault(raw, &raw const all))?;
            let raw = &raw mut actions.0;
            spawn_check(libc::posix_spawn_file_actions_addchdir_np(
                raw,
                self.cwd.as_ptr(),
            ))?;
            match &self.streams {
                Streams::Pipes(fds) => {
                    for (target, fd) in (0..).zip(fds) {
                        let fd = fd.as_fd().as_raw_fd();
                        spawn_check(libc::posix_spawn_file_actions_adddup2(raw, fd, target))?;
                    }
                }
                Streams::Terminal(path) => {
                    // A session leader that opens a terminal without O_NOCTTY gets it.
                    spawn_check(libc::posix_spawn_file_actions_addopen(
                        raw,
                        0,
                        path.as_ptr(),
                        libc::O_RDWR,
                        0,
                    ))?;
                    for target in [1, 2] {
                        spawn_check(libc::posix_spawn_file_actions_adddup2(raw, 0, target))?;
                    }
                }
            }
        }
        let (argv, env) = (pointers(&self.argv), pointers(&self.env));
        let mut pid = 0;
        // SAFETY: both arrays end in a null pointer, and all that they point to outlives the call.
        spawn_check(unsafe {
            libc::posix_spawn(
                &raw mut pid,
                self.program.as_ptr(),
                &raw const actions.0,
                &raw const attributes.0,
                argv.as_ptr(),
                env.as_ptr(),
            )
        })?;
        Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::Other.into())
    }
}

fn libc_flag(flag: libc::c_int) -> libc::c_short {
    libc::c_short::try_from(flag).unwrap_or_default()
}

/// Gives the whole (single-threaded) process another user, for good.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the count describe one live slice; the others take numbers.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Replaces this program by another; returns only when that failed.
pub(crate) fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let none = signal_set(&[]);
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in a null pointer, and all that they point to outlives the call. The
    // new program shall see no blocked signals, and SIGPIPE as the kernel has it.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(program.as_ptr(), argv.as_ptr().cast(), env.as_ptr().cast());
    }
    io::Error::last_os_error()
}

/// Sends a signal of any number, also a real-time one.
pub(crate) fn kill_raw(pid: Pid, number: i32) {
    // SAFETY: no pointers are involved.
    unsafe { libc::kill(pid.as_raw_nonzero().get(), number) };
}
