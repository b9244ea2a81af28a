//! The streams against a guest that is played by the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::packet::HEADER_LEN;

const CID: u64 = 3;

fn from_guest(to: &Header, op: Op, len: usize) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: to.dst_port,
        dst_port: to.src_port,
        len: u32::try_from(len).unwrap(),
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        buf_alloc: 1 << 16,
        fwd_cnt: 0,
    }
}

/// A host program that has asked for port 1024, and the request that the guest sees.
fn dialled() -> (Mux, UnixStream, Token, Header) {
    let mut mux = Mux::new(CID, 0);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    mux.add_host(theirs);
    ours.write_all(b"CONNECT 1024\n").unwrap();
    mux.on_host_event(0, true, true, false);
    let request = mux.next_packet(&mut []).unwrap();
    assert_eq!((request.op, request.dst_port), (Some(Op::Request), 1024));
    (mux, ours, 0, request)
}

fn line(stream: &mut UnixStream) -> String {
    let mut bytes = [0; 64];
    let count = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

#[test]
fn a_stream_is_parked_until_somebody_listens() {
    let (mut mux, mut ours, _, request) = dialled();
    mux.on_guest_packet(&from_guest(&request, Op::Reset, 0), &[]);
    assert!(mux.has_parked());
    assert!(mux.next_packet(&mut []).is_none());
    mux.retry_parked();
    let again = mux.next_packet(&mut []).unwrap();
    assert_eq!(
        (again.op, again.src_port),
        (Some(Op::Request), request.src_port)
    );
    mux.on_guest_packet(&from_guest(&again, Op::Response, 0), &[]);
    assert!(line(&mut ours).starts_with("OK "));
    ours.write_all(b"ping").unwrap();
    mux.on_host_event(0, true, false, false);
    let mut data = [0; 64];
    let packet = mux.next_packet(&mut data).unwrap();
    assert_eq!(
        (packet.op, &data[..packet.len as usize]),
        (Some(Op::Data), &b"ping"[..])
    );
}

#[test]
fn a_host_program_that_hangs_up_is_parked_no_longer() {
    let (mut mux, ours, token, request) = dialled();
    mux.on_guest_packet(&from_guest(&request, Op::Reset, 0), &[]);
    drop(ours);
    mux.on_host_event(token, true, false, true);
    assert!(!mux.has_parked());
}

#[test]
fn nothing_is_sent_beyond_the_guests_credit_and_a_full_stream_does_not_hold_up_another() {
    let (mut mux, mut slow, _, request) = dialled();
    mux.on_guest_packet(&from_guest(&request, Op::Response, 0), &[]);
    line(&mut slow);
    slow.write_all(&[7; 100_000]).unwrap();
    mux.on_host_event(0, true, false, false);
    let mut data = vec![0; 1 << 16];
    let mut sent = 0;
    while let Some(packet) = mux.next_packet(&mut data) {
        sent += packet.len;
    }
    assert_eq!(sent, 1 << 16);

    let (mut other, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    mux.add_host(theirs);
    other.write_all(b"CONNECT 7\n").unwrap();
    mux.on_host_event(1, true, true, false);
    let second = mux.next_packet(&mut data).unwrap();
    mux.on_guest_packet(&from_guest(&second, Op::Response, 0), &[]);
    line(&mut other);
    other.write_all(b"through").unwrap();
    mux.on_host_event(1, true, false, false);
    assert_eq!(mux.next_packet(&mut data).map(|packet| packet.len), Some(7));

    let mut update = from_guest(&request, Op::CreditUpdate, 0);
    update.fwd_cnt = 1 << 16;
    mux.on_guest_packet(&update, &[]);
    let mut rest = 0;
    while let Some(packet) = mux.next_packet(&mut data) {
        rest += packet.len;
    }
    assert_eq!(rest, 100_000 - (1 << 16));
}

#[test]
fn a_slow_host_program_loses_nothing_and_a_guest_beyond_its_credit_is_reset() {
    let (mut mux, mut ours, _, request) = dialled();
    mux.on_guest_packet(&from_guest(&request, Op::Response, 0), &[]);
    line(&mut ours);
    let chunk = vec![9; 1 << 16];
    for _ in 0..16 {
        mux.on_guest_packet(&from_guest(&request, Op::Data, chunk.len()), &chunk);
    }
    assert!(
        mux.next_packet(&mut [])
            .is_none_or(|packet| packet.op != Some(Op::Reset))
    );
    let mut seen = 0;
    let mut bytes = vec![0; 1 << 16];
    while seen < 16 << 16 {
        seen += ours.read(&mut bytes).unwrap();
        mux.on_host_event(0, false, true, false);
    }
    assert_eq!(
        mux.next_packet(&mut []).and_then(|packet| packet.op),
        Some(Op::CreditUpdate)
    );
    for _ in 0..40 {
        mux.on_guest_packet(&from_guest(&request, Op::Data, chunk.len()), &chunk);
    }
    let ops: Vec<_> = std::iter::from_fn(|| mux.next_packet(&mut []))
        .map(|p| p.op)
        .collect();
    assert!(ops.contains(&Some(Op::Reset)));
}

#[test]
fn half_a_close_leaves_the_other_half_open() {
    let (mut mux, mut ours, _, request) = dialled();
    mux.on_guest_packet(&from_guest(&request, Op::Response, 0), &[]);
    line(&mut ours);
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    mux.on_host_event(0, true, false, false);
    let end = mux.next_packet(&mut [0; 8]).unwrap();
    assert_eq!((end.op, end.flags), (Some(Op::Shutdown), SHUTDOWN_SEND));
    mux.on_guest_packet(&from_guest(&request, Op::Data, 4), b"late");
    assert_eq!(line(&mut ours), "late");
    let mut done = from_guest(&request, Op::Shutdown, 0);
    done.flags = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
    mux.on_guest_packet(&done, &[]);
    assert_eq!(
        mux.next_packet(&mut []).and_then(|packet| packet.op),
        Some(Op::Reset)
    );
    assert_eq!(line(&mut ours), "");
}

#[test]
fn malformed_greetings_are_closed() {
    for bad in [
        "HELLO\n",
        "CONNECT x\n",
        "CONNECT 99999999999\n",
        &"C".repeat(100),
    ] {
        let mut mux = Mux::new(CID, 0);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        mux.add_host(theirs);
        ours.write_all(bad.as_bytes()).unwrap();
        mux.on_host_event(0, true, true, false);
        assert!(mux.stream(0).is_none(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_sequence_of_packets_panics_or_grows_without_bound(
        packets in prop::collection::vec((any::<[u8; 8]>(), 0_u16..9, 0_usize..4096), 0..200),
    ) {
        let (mut mux, _ours, _, request) = dialled();
        for (noise, op, len) in packets {
            let mut bytes = from_guest(&request, Op::Data, len).to_bytes();
            bytes[30..32].copy_from_slice(&op.to_le_bytes());
            bytes[32] = noise[0];
            bytes[36..40].copy_from_slice(&noise[1..5]);
            if noise[5] < 40 {
                bytes[16] ^= noise[6];
                bytes[28] ^= noise[7];
            }
            let header = Header::parse(bytes.first_chunk::<HEADER_LEN>().unwrap());
            mux.on_guest_packet(&header, &vec![0; len]);
            prop_assert!(mux.replies.len() <= MAX_REPLIES);
            prop_assert!(mux.connections.len() <= MAX_CONNECTIONS);
        }
        let mut data = [0; 256];
        for _ in 0..2 * MAX_REPLIES {
            if mux.next_packet(&mut data).is_none() {
                break;
            }
        }
    }
}
