//! How a program ended, as ssh tells it, and signals as ssh names them.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use russh::Sig;
use rustix::process::Signal;

/// Names that RFC 4254 has, and what ssh's clients send besides.
const NAMES: [(&str, Signal); 19] = [
    ("ABRT", Signal::ABORT),
    ("ALRM", Signal::ALARM),
    ("BUS", Signal::BUS),
    ("CONT", Signal::CONT),
    ("FPE", Signal::FPE),
    ("HUP", Signal::HUP),
    ("ILL", Signal::ILL),
    ("INT", Signal::INT),
    ("KILL", Signal::KILL),
    ("PIPE", Signal::PIPE),
    ("QUIT", Signal::QUIT),
    ("SEGV", Signal::SEGV),
    ("SYS", Signal::SYS),
    ("TERM", Signal::TERM),
    ("TRAP", Signal::TRAP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("XCPU", Signal::XCPU),
];

/// What a client is told of a program's end.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Its exit code.
    Status(u32),
    /// The signal that ended it, and whether there is a core.
    Signal(Sig, bool),
}

impl From<ExitStatus> for Outcome {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Status(u32::try_from(code).unwrap_or(255)),
            (None, Some(number)) => {
                let known = NAMES.iter().find(|(_, signal)| signal.as_raw() == number);
                let name = known.map_or("UNKNOWN@banger", |(name, _)| *name);
                Self::Signal(named(name), status.core_dumped())
            }
            (None, None) => Self::Status(255),
        }
    }
}

fn named(name: &str) -> Sig {
    match name {
        "ABRT" => Sig::ABRT,
        "ALRM" => Sig::ALRM,
        "FPE" => Sig::FPE,
        "HUP" => Sig::HUP,
        "ILL" => Sig::ILL,
        "INT" => Sig::INT,
        "KILL" => Sig::KILL,
        "PIPE" => Sig::PIPE,
        "QUIT" => Sig::QUIT,
        "SEGV" => Sig::SEGV,
        "TERM" => Sig::TERM,
        "USR1" => Sig::USR1,
        other => Sig::Custom(other.to_owned()),
    }
}

/// The signal that the client names.
pub(crate) fn signal(named: &Sig) -> Option<Signal> {
    let name = match named {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => name,
    };
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_signal_and_back() {
        for (name, expected) in NAMES {
            assert_eq!(signal(&named(name)), Some(expected), "{name}");
            let status = ExitStatus::from_raw(expected.as_raw());
            let Outcome::Signal(told, false) = Outcome::from(status) else {
                panic!("{name}");
            };
            assert_eq!(signal(&told), Some(expected), "{name}");
        }
        assert_eq!(signal(&Sig::Custom("NONSENSE".to_owned())), None);
        let code = ExitStatus::from_raw(7 << 8);
        assert!(matches!(Outcome::from(code), Outcome::Status(7)));
    }
}
