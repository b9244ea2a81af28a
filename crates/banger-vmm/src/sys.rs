//! The two things that have no safe wrapper.
#![expect(
    unsafe_code,
    reason = "an ioctl of /dev/kvm, and reading the time stamp counter"
)]

use std::fs::File;
use std::io;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

struct GetApiVersion;

// SAFETY: KVM_GET_API_VERSION takes no argument and returns a number (`_IO(0xAE, 0)`).
unsafe impl Ioctl for GetApiVersion {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xAE, 0)
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        result: IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(result)
    }
}

/// What version of its API KVM speaks.
pub(crate) fn kvm_api_version(device: &File) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and the request touches no memory.
    Ok(unsafe { ioctl(device, GetApiVersion)? })
}

/// The time stamp counter, now.
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}
