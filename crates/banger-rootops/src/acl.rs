//! POSIX access control lists, as the kernel takes them in an extended attribute
//! (`struct posix_acl_xattr_header` and `posix_acl_xattr_entry`,
//! `include/uapi/linux/posix_acl_xattr.h`; acl(5)).

use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// The attribute that governs the file itself.
pub(crate) const ACCESS: &str = "system.posix_acl_access";
/// The attribute that new files in a directory inherit.
pub(crate) const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NO_ID: u32 = u32::MAX;

/// `u::PERM,u:<user>:PERM,g::-,m::PERM,o::-`, with permission bits as in a mode (rwx = 7).
fn encode(user: u32, perm: u16) -> Vec<u8> {
    let entries = [
        (USER_OBJ, perm, NO_ID),
        (USER, perm, user),
        (GROUP_OBJ, 0, NO_ID),
        (MASK, perm, NO_ID),
        (OTHER, 0, NO_ID),
    ];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Lets `user` have `perm` beside the file's owner, and nobody else.
pub(crate) fn set(file: impl AsFd, attribute: &str, user: u32, perm: u16) -> Result<(), Errno> {
    fsetxattr(file, attribute, &encode(user, perm), XattrFlags::empty())
}

/// Takes the list away; the mode's bits remain.
pub(crate) fn clear(file: impl AsFd) -> Result<(), Errno> {
    match fremovexattr(file, ACCESS) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// Whether the file carries a list that names `user`: only the file's owner and root can have put
/// it there.
pub(crate) fn names(file: impl AsFd, user: u32) -> bool {
    let mut bytes = [0_u8; 256];
    let Ok(length) = fgetxattr(file, ACCESS, &mut bytes[..]) else {
        return false;
    };
    bytes[..length]
        .get(4..)
        .unwrap_or_default()
        .chunks_exact(8)
        .any(|entry| entry[..2] == USER.to_le_bytes() && entry[4..] == user.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_kernels() {
        let bytes = encode(1000, 6);
        assert_eq!(bytes.len(), 4 + 5 * 8);
        assert_eq!(bytes[..4], [2, 0, 0, 0]);
        assert_eq!(bytes[12..20], [2, 0, 6, 0, 0xe8, 3, 0, 0]);
    }

    #[test]
    fn a_list_that_was_set_is_found_and_cleared() {
        let file = tempfile::tempfile().unwrap();
        match set(&file, ACCESS, 4711, 6) {
            Err(Errno::OPNOTSUPP) => {
                println!("SKIPPED(acl): the file system of the temporary folder has no lists");
            }
            other => {
                other.unwrap();
                assert!(names(&file, 4711) && !names(&file, 4712));
                clear(&file).unwrap();
                assert!(!names(&file, 4711));
            }
        }
    }
}
