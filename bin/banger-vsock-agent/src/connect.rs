//! `connect PORT`: joins standard input and output to a port of this guest's own, for clients that come
//! over vsock. Loopback works without any network.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;

/// Nothing listens there.
const REFUSED: u8 = 3;

/// Runs until the other side of the port has ended.
pub(crate) fn main(args: &[OsString]) -> ExitCode {
    let port = args.first().and_then(|word| word.to_str()?.parse().ok());
    let Some(port) = port.filter(|port: &u16| *port != 0) else {
        complain("connect takes a port's number");
        return ExitCode::from(2);
    };
    let places = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    match TcpStream::connect(&places[..]) {
        Ok(stream) => join(stream),
        Err(error) => {
            complain(&format!(
                "nothing answers on port {port} in the guest: {error}"
            ));
            ExitCode::from(REFUSED)
        }
    }
}

fn join(stream: TcpStream) -> ExitCode {
    let _ = stream.set_nodelay(true);
    let Ok(mut to) = stream.try_clone() else {
        return ExitCode::FAILURE;
    };
    // It ends with the process: what still comes in when the port is done has nowhere to go.
    let sending = std::thread::Builder::new().spawn(move || {
        let _ = copy(&mut io::stdin().lock(), &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    if sending.is_err() {
        return ExitCode::FAILURE;
    }
    match copy(&mut &stream, &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Copies as it comes: standard output would else wait for a line's end.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "banger: {line}");
}
