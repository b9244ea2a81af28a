//! The kernel's tables of sockets (proc_net_tcp(5)), read without trust: a name or a table's line can
//! be anything. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A socket that waits for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) uid: u32,
    pub(super) inode: u64,
}

/// States as the tables have them (include/net/tcp_states.h).
const LISTEN: u8 = 0x0a;
const CLOSE: u8 = 0x07;

/// The listening sockets of a table of TCP sockets, IPv4 or IPv6.
pub(super) fn listening(table: &str) -> Vec<Socket> {
    table.lines().filter_map(|line| row(line, LISTEN)).collect()
}

/// The sockets of a table of UDP sockets that take datagrams from anybody.
pub(super) fn bound(table: &str) -> Vec<Socket> {
    table.lines().filter_map(|line| row(line, CLOSE)).collect()
}

/// One row, when its socket is in that state, has a port, and no peer.
fn row(line: &str, state: u8) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let number = fields.next()?.strip_suffix(':')?;
    number.parse::<u64>().ok()?;
    let (address, port) = endpoint(fields.next()?)?;
    let (_, peer_port) = endpoint(fields.next()?)?;
    let is_there = u8::from_str_radix(fields.next()?, 16).ok()? == state;
    // Queues, timer, retransmissions.
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    (is_there && port != 0 && peer_port == 0).then_some(Socket {
        address,
        port,
        uid,
        inode,
    })
}

/// `0100007F:0050`: words of the address as this machine has them in memory, and the port.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex(address) || !is_hex(port) || port.len() != 4 {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok();
    let address = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at * 8)?.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// The inode of `socket:[123]`, what a descriptor of a socket links to (proc_pid_fd(5)).
pub(super) fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        \x20  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24601 1 0000000000000000 100 0 0 10 0\n\
        \x20  1: 0100007F:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0000000000000000\n\
        \x20  2: 0100007F:1F90 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0000000000000000\n";
    const TCP6: &str = "   0: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9 1 0\n";
    const UDP: &str = "  12: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 5 2 0 0\n\
        \x20 13: 0200A8C0:A000 0100A8C0:0035 01 00000000:00000000 00:00000000 00000000   101        0 6 2 0 0\n";

    #[test]
    fn who_waits_is_found_and_who_talks_is_not() {
        let found = listening(TCP);
        assert_eq!(
            found[0],
            Socket {
                address: Ipv4Addr::UNSPECIFIED.into(),
                port: 8080,
                uid: 1000,
                inode: 24601
            }
        );
        assert_eq!(found[1].address, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(found.len(), 2);
        let six = listening(TCP6);
        assert_eq!(
            (six[0].address, six[0].port),
            (Ipv6Addr::LOCALHOST.into(), 631)
        );
        let udp = bound(UDP);
        assert_eq!((udp.len(), udp[0].port, udp[0].uid), (1, 68, 101));
    }

    #[test]
    fn a_socket_is_told_from_other_descriptors() {
        assert_eq!(socket_inode(b"socket:[24601]"), Some(24601));
        for other in [
            &b"pipe:[3]"[..],
            b"socket:[",
            b"socket:[x]",
            b"socket:[]",
            b"/dev/null",
            b"socket:[1]/",
        ] {
            assert_eq!(socket_inode(other), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_table_makes_the_parser_panic(text in any::<String>(), link: Vec<u8>) {
            listening(&text);
            bound(&text);
            socket_inode(&link);
        }

        #[test]
        fn a_damaged_row_is_left_out_or_still_one_socket(at in 0_usize..140, with in any::<char>()) {
            let row = TCP.lines().nth(1).unwrap();
            let damaged: String = row.chars().enumerate()
                .map(|(n, c)| if n == at { with } else { c }).collect();
            prop_assert!(listening(&damaged).len() <= 1);
        }

        #[test]
        fn what_the_kernel_writes_is_read_back(address: [u8; 4], port in 1_u16.., uid: u32, inode: u64) {
            let word = u32::from_ne_bytes(address);
            let row = format!(
                " 7: {word:08X}:{port:04X} 00000000:0000 0A 0:0 00:0 0 {uid} 0 {inode} 1 0\n"
            );
            let expected = Socket { address: Ipv4Addr::from(address).into(), port, uid, inode };
            prop_assert_eq!(listening(&row), vec![expected]);
        }
    }
}
