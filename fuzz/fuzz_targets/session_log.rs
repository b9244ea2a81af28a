//! A hostile guest's account of a session's log: whatever comes, what the client accepts is contiguous,
//! adds up, and stays within the window.
#![no_main]

use banger_guest_proto::{
    AgentMessage, Decoder, Frame, INITIAL_WINDOW, ReceiveWindow, Sequence, SessionReply,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, bool, &[u8])| {
    let (from, filtered, bytes) = input;
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut sequence = Sequence::new(from, filtered);
    let mut window = ReceiveWindow::default();
    let mut held = 0;
    while let Ok(Some(frame)) = decoder.next_frame() {
        let before = sequence.next();
        match frame {
            Frame::Record(_, at, bytes) => {
                if sequence.record(at, bytes.len()).is_err() || window.received(bytes.len()).is_err() {
                    return;
                }
                held += bytes.len();
                assert!(held <= INITIAL_WINDOW as usize);
                assert!(filtered || at == before);
                assert_eq!(sequence.next(), at + bytes.len() as u64);
            }
            Frame::Control(json) => {
                let Ok(AgentMessage::Session(reply)) = Frame::parse(&json) else {
                    continue;
                };
                if let SessionReply::Gap { from, to } = reply {
                    if sequence.gap(from, to).is_err() {
                        return;
                    }
                    assert!(to > before && (filtered || from == before));
                    assert_eq!(sequence.next(), to);
                }
            }
            Frame::Data(..) | Frame::Credit(..) => {}
        }
        assert!(sequence.next() >= before);
    }
});
