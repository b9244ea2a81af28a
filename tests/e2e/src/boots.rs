//! Boots with a client that dials from the first millisecond, when there is not even a socket yet.

use std::time::{Duration, Instant};

use banger_guest::{AgentClient, GuestAddress};

use crate::{Banger, Vm};

/// How long a boot may take, and how long a client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the clients fared.
#[derive(Debug, Clone, Default)]
pub struct Boots {
    /// From the start of `vm start` to the agent's answer, sorted.
    pub answered: Vec<Duration>,
    /// Why the others had none.
    pub unanswered: Vec<String>,
}

impl Boots {
    /// The figures on one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let count = self.answered.len();
        let of = count + self.unanswered.len();
        let at = |part: usize| {
            let place = (count.saturating_sub(1) * part).div_ceil(100);
            let time = self.answered.get(place).copied().unwrap_or_default();
            format!("{:.2}", time.as_secs_f64())
        };
        let figures: Vec<String> = [0, 50, 90, 100].map(at).into();
        format!(
            "{count} of {of} answered; seconds after `vm start`: min {} median {} p90 {} max {}",
            figures[0], figures[1], figures[2], figures[3]
        )
    }
}

/// Boots the VM, which does not run, that many times. It is stopped afterwards.
///
/// # Panics
/// When `banger` cannot be run; a boot that fails is counted.
#[must_use]
pub fn boots(banger: &Banger, vm: &Vm, count: usize) -> Boots {
    let id = vm.show()["id"].as_str().unwrap_or_default().to_owned();
    let socket = banger.state_dir().join("vms").join(id).join("run/v");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut boots = Boots::default();
    for _ in 0..count {
        assert!(!socket.exists(), "it runs already");
        let start = Instant::now();
        let starting = banger.spawn(&["vm", "start", "--wait", "reachable", &vm.name]);
        let answer = runtime.block_on(hello(&GuestAddress::new(&socket)));
        let took = start.elapsed();
        let started = starting.wait_with_output().expect("it ends");
        match answer {
            Ok(()) if started.status.success() => boots.answered.push(took),
            Ok(()) => {
                let why = String::from_utf8_lossy(&started.stderr).into_owned();
                boots.unanswered.push(why);
            }
            Err(why) => boots.unanswered.push(why),
        }
        banger.ok(&["vm", "stop", "--grace", "0", &vm.name]);
    }
    boots.answered.sort_unstable();
    boots
}

async fn hello(address: &GuestAddress) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let asked = async {
        let mut agent = AgentClient::connect(address, deadline)
            .await
            .map_err(|error| error.to_string())?;
        agent.ping().await.map_err(|error| error.to_string())
    };
    tokio::time::timeout_at(deadline, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}
