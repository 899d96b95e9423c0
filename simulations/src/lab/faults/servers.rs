//! Faults of servers: their programs, their announcement, their power.

use rustix::process::Signal;

use super::super::build::{ANNOUNCING, DRAINING};
use super::super::plan::Kind;
use super::super::processes::{self, Process};
use super::super::{Lab, namespace};
use super::{Undo, links};

impl Lab {
    pub(super) fn kill(&mut self, server: &str) -> Result<String, String> {
        let programs = self.programs(server)?;
        let stands_in = programs.iter().any(|process| is_stand_in(*process, ANNOUNCING));
        programs.iter().for_each(|process| {
            process.signal(Signal::KILL);
        });
        let what = format!("killed on {server}: {}", names(&programs));
        if !stands_in {
            return Ok(format!("{what} (start it again yourself)"));
        }
        let undo = Undo::StandIn { server: server.to_owned(), interface: ANNOUNCING.to_owned() };
        self.keep_fault("kill", server, what, vec![undo])
    }

    pub(super) fn freeze(&mut self, server: &str) -> Result<String, String> {
        let processes = self.programs(server)?;
        processes.iter().for_each(|process| {
            process.signal(Signal::STOP);
        });
        let what = format!("frozen on {server}: {}", names(&processes));
        self.keep_fault("freeze", server, what, vec![Undo::Continue { processes }])
    }

    pub(super) fn silent_drop(&mut self, server: &str) -> Result<String, String> {
        self.demand_server(server)?;
        self.demand_no_fault("silent-drop", server)?;
        let (_, _, router) = self.plan.uplink(server).ok_or("a server without a router")?;
        let router = router.clone();
        // At the router's end: a program in the server's driver path sees packets before the server's own filters do.
        let undo = links::drop_share(self, &router, 1.0)?;
        let what = format!("everything to and from {server} is dropped at {}", router.machine);
        self.keep_fault("silent-drop", server, what, vec![undo])
    }

    pub(super) fn withdraw(&mut self, server: &str) -> Result<String, String> {
        self.demand_server(server)?;
        self.demand_no_fault("withdraw", server)?;
        let mut undo = vec![];
        for protocol in ["announced", "draining"] {
            self.birdc(server)?.ask(&format!("disable {protocol}"))?;
            undo.push(Undo::Bird { machine: server.to_owned(), command: format!("enable {protocol}") });
        }
        self.keep_fault("withdraw", server, format!("{server} is withdrawn"), undo)
    }

    pub(super) fn announce(&mut self, server: &str) -> Result<String, String> {
        self.demand_server(server)?;
        let ended_it = ["withdraw", "kill"];
        let faults = self.faults()?.into_iter();
        let numbers: Vec<u32> = faults
            .filter(|fault| ended_it.contains(&fault.kind.0.as_str()) && fault.kind.1 == server)
            .map(|fault| fault.number)
            .collect();
        if !numbers.is_empty() {
            let healed: Result<Vec<String>, String> =
                numbers.into_iter().map(|number| self.heal(Some(number))).collect();
            return Ok(healed?.join("\n"));
        }
        if self
            .programs(server)
            .is_ok_and(|programs| programs.iter().any(|process| is_stand_in(*process, ANNOUNCING)))
        {
            return Err(format!("{server} announces already"));
        }
        self.announce_by_stand_in(server, ANNOUNCING)?;
        Ok(format!("a stand-in announces for {server} (`lab fault kill {server}` ends it)"))
    }

    pub(super) fn drain(&mut self, server: &str) -> Result<String, String> {
        self.demand_server(server)?;
        self.demand_no_fault("drain", server)?;
        let process = self.announce_by_stand_in(server, DRAINING)?;
        let what = format!("{server} is announced with GRACEFUL_SHUTDOWN");
        self.keep_fault("drain", server, what, vec![Undo::End { process }])
    }

    /// What runs on a server and is not part of the lab's ground.
    fn programs(&self, server: &str) -> Result<Vec<Process>, String> {
        self.demand_server(server)?;
        let ground = self.record()?.infrastructure;
        let found = processes::inside(&[namespace(&self.name, server)]).into_iter();
        let found: Vec<Process> =
            found.map(|(_, process)| process).filter(|process| !ground.contains(process)).collect();
        if found.is_empty() { Err(format!("nothing runs on {server}")) } else { Ok(found) }
    }

    fn demand_server(&self, name: &str) -> Result<(), String> {
        let is_server = |kind| matches!(kind, Kind::Server { .. });
        if self.plan.machine(name).is_some_and(|machine| is_server(machine.kind)) {
            return Ok(());
        }
        let all: Vec<&str> = self.plan.servers().map(|server| server.name.as_str()).collect();
        Err(format!("{name} is no server; there are: {}", all.join(", ")))
    }
}

fn is_stand_in(process: Process, interface: &str) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let words: Vec<&str> = line.split('\0').collect();
    words.get(1..4) == Some(&["announcer", "--interface", interface])
}

fn names(processes: &[Process]) -> String {
    let name = |process: &Process| format!("{} ({})", process.name(), process.pid);
    processes.iter().map(name).collect::<Vec<_>>().join(", ")
}
