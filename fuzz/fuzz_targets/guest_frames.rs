//! A guest's bytes, in pieces as they arrive. Both readers agree, and none allocates what it was not sent.
#![no_main]

use banger_guest_proto::{AgentMessage, Decoder, Frame, read_frame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = (usize::from(input.0).max(1), input.1);
    let mut decoder = Decoder::default();
    let mut frames = vec![];
    let mut failed = false;
    'pieces: for piece in bytes.chunks(piece) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => {
                    failed = true;
                    break 'pieces;
                }
            }
        }
    }
    for frame in &frames {
        if let Frame::Control(json) = frame {
            let _ = Frame::parse::<AgentMessage>(json);
        }
    }
    let mut rest = bytes;
    for frame in &frames {
        assert_eq!(&read_frame(&mut rest).expect("the other reader got it"), frame);
    }
    if failed {
        assert!(read_frame(&mut rest).is_err());
    }
});
