//! `round-trip SOCKET PORT ROUNDS`: medians of the agent's ping and of a bare echo on `PORT`, asked in
//! turn over one connection each, as `<ping µs> <echo µs>`. For `scripts/bench`.
#![expect(clippy::print_stdout, reason = "the figures are its result")]

use std::time::{Duration, Instant};

use banger_guest::{AgentClient, GuestAddress};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const USAGE: &str = "usage: round-trip SOCKET PORT ROUNDS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, port, rounds] = args.as_slice() else {
        return Err(USAGE.into());
    };
    let address = GuestAddress::new(socket);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut agent = AgentClient::connect(&address, deadline).await?;
    let mut echo = address.dial_port(port.parse()?).await?;
    let (mut pings, mut echoes) = (vec![], vec![]);
    for _ in 0..rounds.parse()? {
        let start = Instant::now();
        agent.ping().await?;
        pings.push(start.elapsed());
        let start = Instant::now();
        let mut answer = [0; 4];
        echo.write_all(b"ping").await?;
        echo.read_exact(&mut answer).await?;
        echoes.push(start.elapsed());
    }
    println!("{} {}", median(pings), median(echoes));
    Ok(())
}

fn median(mut times: Vec<Duration>) -> u128 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0, Duration::as_micros)
}
