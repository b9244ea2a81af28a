//! The modes of the client's terminal, for the guest's: what the keys do, and what is echoed (RFC 4254, section 8).

use std::io;
use std::os::fd::AsFd;

use russh::Pty;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, tcgetattr, tcsetattr,
};

/// What the client calls it, and what it is here.
const KEYS: [(Pty, SpecialCodeIndex); 12] = [
    (Pty::VINTR, SpecialCodeIndex::VINTR),
    (Pty::VQUIT, SpecialCodeIndex::VQUIT),
    (Pty::VERASE, SpecialCodeIndex::VERASE),
    (Pty::VKILL, SpecialCodeIndex::VKILL),
    (Pty::VEOF, SpecialCodeIndex::VEOF),
    (Pty::VSTART, SpecialCodeIndex::VSTART),
    (Pty::VSTOP, SpecialCodeIndex::VSTOP),
    (Pty::VSUSP, SpecialCodeIndex::VSUSP),
    (Pty::VREPRINT, SpecialCodeIndex::VREPRINT),
    (Pty::VWERASE, SpecialCodeIndex::VWERASE),
    (Pty::VLNEXT, SpecialCodeIndex::VLNEXT),
    (Pty::VEOL, SpecialCodeIndex::VEOL),
];

/// No key does it, as the client says that.
const NO_KEY: u32 = 255;

const INPUT: [(Pty, InputModes); 9] = [
    (Pty::IGNPAR, InputModes::IGNPAR),
    (Pty::ISTRIP, InputModes::ISTRIP),
    (Pty::INLCR, InputModes::INLCR),
    (Pty::IGNCR, InputModes::IGNCR),
    (Pty::ICRNL, InputModes::ICRNL),
    (Pty::IXON, InputModes::IXON),
    (Pty::IXANY, InputModes::IXANY),
    (Pty::IXOFF, InputModes::IXOFF),
    (Pty::IUTF8, InputModes::IUTF8),
];

const LOCAL: [(Pty, LocalModes); 9] = [
    (Pty::ISIG, LocalModes::ISIG),
    (Pty::ICANON, LocalModes::ICANON),
    (Pty::ECHO, LocalModes::ECHO),
    (Pty::ECHOE, LocalModes::ECHOE),
    (Pty::ECHOK, LocalModes::ECHOK),
    (Pty::ECHONL, LocalModes::ECHONL),
    (Pty::TOSTOP, LocalModes::TOSTOP),
    (Pty::IEXTEN, LocalModes::IEXTEN),
    (Pty::ECHOCTL, LocalModes::ECHOCTL),
];

const OUTPUT: [(Pty, OutputModes); 3] = [
    (Pty::OPOST, OutputModes::OPOST),
    (Pty::ONLCR, OutputModes::ONLCR),
    (Pty::OCRNL, OutputModes::OCRNL),
];

/// Gives the terminal those of the modes that are known here.
pub(crate) fn apply(terminal: impl AsFd, modes: &[(Pty, u32)]) -> io::Result<()> {
    let terminal = terminal.as_fd();
    let mut attributes = tcgetattr(terminal)?;
    for (mode, value) in modes {
        if let Some((_, key)) = KEYS.iter().find(|(known, _)| known == mode) {
            let code = if *value == NO_KEY { 0 } else { *value };
            if let Ok(code) = u8::try_from(code) {
                attributes.special_codes[*key] = code;
            }
        } else if let Some((_, flag)) = INPUT.iter().find(|(known, _)| known == mode) {
            attributes.input_modes.set(*flag, *value != 0);
        } else if let Some((_, flag)) = LOCAL.iter().find(|(known, _)| known == mode) {
            attributes.local_modes.set(*flag, *value != 0);
        } else if let Some((_, flag)) = OUTPUT.iter().find(|(known, _)| known == mode) {
            attributes.output_modes.set(*flag, *value != 0);
        }
    }
    Ok(tcsetattr(terminal, OptionalActions::Now, &attributes)?)
}
