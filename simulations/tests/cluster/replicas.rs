//! A replica is killed in the middle of each mutating call; the call, sent again, is applied once.

use std::time::Duration;

use trunkline_simulations::cluster::Cluster;

use crate::Named;
use crate::fleet::{Check, ensure, on_cluster, settled};

pub const TRIALS: &[Named] = &[("a_call_sent_again_after_its_replica_was_killed_is_applied_once", || {
    on_cluster(1, 2, &["1.1"], killed)
})];

fn killed(cluster: &mut Cluster) -> Check {
    settled(&mut cluster.view()?, &["1.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "for others"])?;
    let key = crate::joining::text(&key, "/key/id")?;
    let doomed = cluster.ctl().json(&["keys", "create", "doomed"])?;
    let doomed = crate::joining::text(&doomed, "/key/id")?;
    let username = format!("4102444800:{key}:somebody");
    let settings = cluster.path("settings.toml");
    std::fs::write(&settings, "user-quota = 77\n").map_err(|error| error.to_string())?;
    let settings = settings.to_string_lossy().into_owned();
    let calls: [(&str, Vec<&str>); 11] = [
        ("AddNode", vec!["nodes", "add", "2.1"]),
        ("SetWeight", vec!["weight", "1.1", "3"]),
        ("SetDrain", vec!["drain", "1.1", "--no-wait"]),
        ("SetDrain", vec!["undrain", "1.1"]),
        ("CreateKey", vec!["keys", "create", "once"]),
        ("RenameKey", vec!["keys", "rename", &key, "renamed"]),
        ("RevokeCredential", vec!["keys", "revoke", &key, &username]),
        ("DeleteKey", vec!["keys", "delete", &doomed]),
        ("RotateFleetKey", vec!["keys", "rotate-fleet-key"]),
        ("ApplySettings", vec!["config", "apply", &settings, "--at-once"]),
        ("RemoveNode", vec!["nodes", "remove", "2.1", "--confirm-gone"]),
    ];
    let mut moment = Moment(0x9E37_79B9);
    for (round, (method, arguments)) in calls.iter().enumerate() {
        let before = count(cluster, method)?;
        let idempotency_key = format!("trial-{round}");
        let all = [&["--idempotency-key", &idempotency_key], arguments.as_slice()].concat();
        let mut call = cluster.ctl().start(&all)?;
        std::thread::sleep(moment.next());
        // Both, one after the other: whichever it talks to.
        for number in 0..2 {
            cluster.replicas.remove(0);
            let replica = cluster.replica(number)?;
            cluster.replicas.push(replica);
        }
        let status = call.wait_for_exit(Duration::from_secs(30))?;
        if !status.success() {
            cluster
                .ctl()
                .json(&all)
                .map_err(|fault| format!("{method}, sent again: {fault}\n{}", call.log()))?;
        }
        // And once more: the same answer, and nothing done.
        cluster.ctl().json(&all)?;
        let after = count(cluster, method)?;
        ensure(after == before + 1, || format!("{method} was applied {} times", after - before))?;
    }
    let keys = cluster.ctl().json(&["keys", "list"])?.to_string();
    ensure(keys.matches("\"once\"").count() == 1, || format!("keys {keys}"))
}

/// How often a method stands in the audit log.
fn count(cluster: &Cluster, method: &str) -> Result<usize, String> {
    let events = cluster.view()?.events()?;
    Ok(events.iter().filter(|event| event.what == method).count())
}

/// Moments from 0 to 60 ms, the same in every run.
struct Moment(u32);

impl Moment {
    fn next(&mut self) -> Duration {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Duration::from_millis(u64::from(self.0 >> 24) * 60 / 256)
    }
}
