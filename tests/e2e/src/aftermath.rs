//! What must be so when the dust has settled: nothing in the air, nothing left behind, the database whole.

use std::fs;
use std::time::{Duration, Instant};

use banger_store::Store;
use serde_json::Value;

use crate::Banger;
use crate::links::links;
use crate::processes::{command_lines, lineage, pause};

/// How long the world may take to come to rest.
pub(crate) const REST: Duration = Duration::from_secs(120);

/// All VMs, when each is in a phase that lasts; or why that did not come to be.
pub(crate) fn settled(banger: &Banger) -> Result<Vec<Value>, String> {
    let lasting = ["stopped", "running", "failed"];
    let start = Instant::now();
    loop {
        let listed = banger.run(&["vm", "list", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        let vms = listed["vms"].as_array();
        let lasts = |vm: &Value| vm["phase"].as_str().is_some_and(|p| lasting.contains(&p));
        if let Some(vms) = vms.filter(|vms| vms.iter().all(lasts)) {
            return Ok(vms.clone());
        }
        if start.elapsed() > REST {
            return Err(format!("not settled: {listed}"));
        }
        pause(Duration::from_millis(100));
    }
}

/// Deletes these VMs, ends the daemon, and says what is wrong then.
pub(crate) fn aftermath(banger: &Banger, vms: &[Value]) -> Vec<String> {
    let mut problems = vec![];
    let ids: Vec<&str> = vms.iter().filter_map(|vm| vm["id"].as_str()).collect();
    let names: Vec<&str> = vms.iter().filter_map(|vm| vm["name"].as_str()).collect();
    if !names.is_empty() {
        let deleted = banger.run(&[vec!["vm", "delete"], names].concat());
        if deleted.code != 0 {
            problems.push(format!("not deleted: {}{}", deleted.stdout, deleted.stderr));
        }
    }
    banger.ok(&["daemon", "stop"]);
    problems.extend(leaks(banger, &ids));
    problems.extend(damage(banger));
    problems
}

fn leaks(banger: &Banger, ids: &[&str]) -> Vec<String> {
    let mut left = vec![];
    for link in links().iter().filter(|link| link.starts_with("bgr")) {
        left.push(format!("the link {link} is left behind"));
    }
    let folders = fs::read_dir(banger.state_dir().join("vms")).expect("the folders");
    for folder in folders.flatten() {
        left.push(format!("{} is left behind", folder.path().display()));
    }
    // Anything that names a program under test, but whoever runs this, told where the programs are.
    let bin = banger.program("").to_string_lossy().into_owned();
    let lineage = lineage();
    for (pid, line) in command_lines() {
        let is_under_test = line.contains(&bin) && !lineage.contains(&pid);
        if is_under_test || ids.iter().any(|id| line.contains(id)) {
            left.push(format!("process {pid} is left behind: {line}"));
        }
    }
    left
}

fn damage(banger: &Banger) -> Vec<String> {
    let looked = look_at_the_database(banger);
    let found = looked.unwrap_or_else(|error| vec![error.to_string()]);
    let of_it = |what| format!("the database: {what}");
    found.into_iter().map(of_it).collect()
}

fn look_at_the_database(banger: &Banger) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let store = Store::open(&banger.state_dir().join("banger.db"))?;
    let mut found = store.damage()?;
    let stuck = store.unfinished_operations()?;
    found.extend(
        stuck
            .iter()
            .map(|op| format!("an operation is stuck: {op:?}")),
    );
    found.extend(store.vms()?.iter().map(|vm| format!("it still has {vm:?}")));
    Ok(found)
}
