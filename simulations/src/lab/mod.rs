//! The lab: an internet of routers with sites, servers, clients and peers, on one machine.
//!
//! Every machine of a [`topology::Topology`] is a network namespace, every router and server runs BIRD, and nothing of it
//! touches the machine's own network. A lab is built by the command `lab up` and stays until `lab down`, or by
//! [`Lab::up`] and ends with its value.
//!
//! ```text
//! topology (the file) ─▶ plan (machines, cables, addresses; pure) ─▶ bird (configurations; pure)
//!                              └─▶ build ─▶ state (what runs)  ◀─ faults, status, teardown
//! ```

pub mod announcer;
pub mod bird;
pub mod birdc;
mod build;
pub mod faults;
pub mod nat;
pub mod plan;
pub mod processes;
pub mod state;
pub mod status;
pub mod teardown;
pub mod topology;
pub mod wire;

pub use build::require;

use std::net::IpAddr;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use self::birdc::Birdc;
use self::plan::Plan;
use self::processes::Process;
use self::state::{Directory, Record};
use self::topology::Topology;
use crate::netns::Entrance;

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: Directory,
    topology: Topology,
    plan: Plan,
    /// Programs that this process started, to be collected when they have ended.
    children: Vec<Child>,
    ends_with_value: bool,
}

impl Lab {
    /// Builds a lab that ends with the returned value, under a name of its own, and removes what dead processes left of
    /// such labs.
    pub fn up(topology: &Topology) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        teardown::sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}x{number}", std::process::id());
        build::build(topology, &name, Process::own(), &mut |_| ())
    }

    /// Builds a lab that stays until [`teardown::down`]. `progress` is told what is going on.
    pub fn up_to_stay(
        topology: &Topology,
        name: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, String> {
        teardown::sweep();
        let mut lab = build::build(topology, name, None, progress)?;
        lab.ends_with_value = false;
        Ok(lab)
    }

    /// A lab that was built before.
    pub fn open(name: &str) -> Result<Self, String> {
        let directory = Directory::of(name);
        let Some(record) = directory.record()? else {
            let there = Directory::labs();
            let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
            return Err(format!("there is no lab {name}; there are: {there}"));
        };
        if !record.complete {
            return Err(format!(
                "lab {name} was not built to its end: `lab down {name}` removes what there is"
            ));
        }
        let plan = Plan::of(&record.topology);
        let (name, topology) = (name.to_owned(), record.topology);
        Ok(Self { name, directory, topology, plan, children: vec![], ends_with_value: false })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was built from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Its machines, cables and addresses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The way into a machine.
    pub fn entrance(&self, machine: &str) -> Result<Entrance, String> {
        if self.plan.machine(machine).is_none() {
            let names: Vec<&str> = self.plan.machines.iter().map(|machine| machine.name.as_str()).collect();
            return Err(format!("lab {} has no {machine}; it has: {}", self.name, names.join(", ")));
        }
        Entrance::open(&namespace(&self.name, machine)).map_err(|error| error.to_string())
    }

    /// A machine's BIRD.
    pub fn birdc(&self, machine: &str) -> Result<Birdc, String> {
        Birdc::connect(&self.directory.file(&format!("{machine}.ctl")))
    }

    /// The first service address of a family.
    pub fn service_address(&self, is_wanted: fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.topology.anycast.service.iter().copied().find(is_wanted)
    }

    fn record(&self) -> Result<Record, String> {
        self.directory.record()?.ok_or_else(|| format!("lab {} is gone", self.name))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.ends_with_value {
            return;
        }
        if let Err(fault) = teardown::down(&self.name) {
            eprintln!("lab {}: {fault}", self.name);
        }
        for child in &mut self.children {
            // Killed with the lab; this only collects it.
            let _ended = child.wait();
        }
    }
}

/// The name of a machine's namespace.
pub fn namespace(lab: &str, machine: &str) -> String {
    format!("{NAMESPACE_PREFIX}{lab}-{machine}")
}

/// A lab's name has no dash, so that what stands between this and the next dash is one.
const NAMESPACE_PREFIX: &str = "tlab-";
