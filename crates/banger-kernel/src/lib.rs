//! The kernel store: importing a kernel from a Debian package, from this host or from a file, and
//! what a guest boots with: the ELF image, the boot segment of the initramfs, the modules drive.

mod command;
mod decompress;
mod elf;
mod error;
mod image;
mod import;
mod incoming;
mod initrd;
mod modules;
mod source;
mod store;

pub use error::ImportError;
pub use import::{ImportRequest, Source};
pub use incoming::{Incoming, IncomingRecord};
pub use initrd::{InitrdError, ensure_initrd, forget_initrd};
pub use store::{DeleteError, Kernel, KernelRecord, KernelStore};
