//! Faults: what is broken in a lab on purpose, and how each is undone.
//!
//! A fault that lasts is written down with the steps that undo it, so that any later command can show and heal it.

mod flip;
mod links;
mod servers;

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::net::UnixDatagram;

use clap::Subcommand;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Lab;
use super::processes::Process;

/// What can be broken.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Action {
    /// Kill a server's programs (SIGKILL). Its BIRD goes on, as the machine does.
    Kill {
        /// The server, e.g. ams-1.
        server: String,
    },
    /// Stop a server's programs where they are (SIGSTOP): a machine that hangs and still announces.
    Freeze {
        /// The server.
        server: String,
    },
    /// Let a frozen server go on.
    Thaw {
        /// The server.
        server: String,
    },
    /// Drop everything to and from a server without a word, as a machine that lost its power.
    SilentDrop {
        /// The server.
        server: String,
    },
    /// Stop a server's announcement; its programs go on.
    Withdraw {
        /// The server.
        server: String,
    },
    /// Announce a server's addresses again, after `withdraw` or `kill`.
    Announce {
        /// The server.
        server: String,
    },
    /// Ask the routers to send a server nothing while there is another one (GRACEFUL_SHUTDOWN).
    Drain {
        /// The server.
        server: String,
    },
    /// Take a link down: both ends notice.
    LinkDown {
        /// A machine.
        a: String,
        /// Its neighbour.
        b: String,
    },
    /// Bring a link up again.
    LinkUp {
        /// A machine.
        a: String,
        /// Its neighbour.
        b: String,
    },
    /// Lose a share of a link's packets, in both directions.
    Loss {
        /// A machine.
        a: String,
        /// Its neighbour.
        b: String,
        /// From 0 to 1.
        share: f64,
    },
    /// Change a link's delay, in both directions. The link needs a delay in the topology, which may be 0.
    Delay {
        /// A machine.
        a: String,
        /// Its neighbour.
        b: String,
        /// Time from one end to the other.
        ms: f64,
    },
    /// Send a client's packets to another site than the nearest.
    Flip {
        /// The client.
        client: String,
        /// The site.
        #[arg(long)]
        to: String,
        /// Every other packet only, the rest as before.
        #[arg(long)]
        per_packet: bool,
    },
    /// Undo one fault, or all of them.
    Heal {
        /// Its number, as `lab fault --list` shows it.
        number: Option<u32>,
    },
}

/// A fault that lasts until it is healed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Its number in this lab.
    pub number: u32,
    /// The action's name and its subject: there is one such fault at a time.
    pub kind: (String, String),
    /// What was done, in words.
    pub what: String,
    undo: Vec<Undo>,
}

/// A step that undoes a part of a fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Undo {
    /// Run a program in a machine.
    Run { machine: String, command: Vec<String> },
    /// Tell a BIRD something.
    Bird { machine: String, command: String },
    /// Let processes go on.
    Continue { processes: Vec<Process> },
    /// End a process.
    End { process: Process },
    /// Start a server's stand-in.
    StandIn { server: String, interface: String },
    /// Tell the wire between two machines something.
    Wire { between: [String; 2], message: Value },
}

impl Lab {
    /// The faults that are active.
    pub fn faults(&self) -> Result<Vec<Fault>, String> {
        let all: BTreeMap<u32, Fault> = self.directory.read(FAULTS)?.unwrap_or_default();
        Ok(all.into_values().collect())
    }

    /// Breaks something, or undoes it: what was done, in words.
    pub fn inject(&mut self, action: &Action) -> Result<String, String> {
        let _lock = self.directory.lock()?;
        match action {
            Action::Kill { server } => self.kill(server),
            Action::Freeze { server } => self.freeze(server),
            Action::SilentDrop { server } => self.silent_drop(server),
            Action::Withdraw { server } => self.withdraw(server),
            Action::Announce { server } => self.announce(server),
            Action::Drain { server } => self.drain(server),
            Action::LinkDown { a, b } => self.link_down(a, b),
            Action::Loss { a, b, share } => self.lose(a, b, *share),
            Action::Delay { a, b, ms } => self.delay(a, b, *ms),
            Action::Flip { client, to, per_packet: false } => self.flip(client, to),
            Action::Flip { client, to, per_packet: true } => self.flip_per_packet(client, to),
            Action::Thaw { server } => self.heal_kind("freeze", server),
            Action::LinkUp { a, b } => self.heal_kind("link-down", &links::subject(self, a, b)?),
            Action::Heal { number } => self.heal(*number),
        }
    }

    /// Heals one fault, or all from the newest to the oldest.
    fn heal(&mut self, number: Option<u32>) -> Result<String, String> {
        let mut healed = vec![];
        for fault in self.faults()?.into_iter().rev() {
            if number.is_none_or(|number| number == fault.number) {
                self.undo(&fault)?;
                healed.push(format!("healed #{}: {}", fault.number, fault.what));
            }
        }
        match (number, healed.is_empty()) {
            (Some(number), true) => Err(format!("there is no fault #{number}; see `lab fault --list`")),
            (None, true) => Ok("there was nothing to heal".into()),
            (_, false) => Ok(healed.join("\n")),
        }
    }

    fn heal_kind(&mut self, action: &str, subject: &str) -> Result<String, String> {
        let kind = (action.to_owned(), subject.to_owned());
        let fault = self.faults()?.into_iter().find(|fault| fault.kind == kind);
        let fault = fault.ok_or_else(|| format!("there is no fault {action} {subject}"))?;
        self.heal(Some(fault.number))
    }

    /// The number of the next fault. Numbers are not given again while a later one is active.
    fn next_fault(&self) -> Result<u32, String> {
        Ok(self.faults()?.last().map_or(1, |fault| fault.number + 1))
    }

    /// Writes a fault down, and says so. An earlier one of the same kind is undone now that the new one is in place.
    fn keep_fault(
        &mut self,
        action: &str,
        subject: &str,
        what: String,
        undo: Vec<Undo>,
    ) -> Result<String, String> {
        let number = self.next_fault()?;
        let kind = (action.to_owned(), subject.to_owned());
        let earlier = self.faults()?.into_iter().find(|fault| fault.kind == kind);
        let fault = Fault { number, kind, what, undo };
        let mut all: BTreeMap<u32, Fault> = self.directory.read(FAULTS)?.unwrap_or_default();
        all.insert(number, fault.clone());
        self.directory.write(FAULTS, &all)?;
        if let Some(earlier) = earlier {
            self.undo(&earlier)?;
        }
        Ok(fault.to_string())
    }

    /// Refuses a fault that is there already and cannot be laid over itself.
    fn demand_no_fault(&self, action: &str, subject: &str) -> Result<(), String> {
        let there =
            self.faults()?.into_iter().find(|fault| fault.kind.0 == action && fault.kind.1 == subject);
        there.map_or(Ok(()), |fault| Err(format!("that is so already: {fault}")))
    }

    fn undo(&mut self, fault: &Fault) -> Result<(), String> {
        for step in &fault.undo {
            self.undo_step(step).map_err(|problem| format!("healing #{}: {problem}", fault.number))?;
        }
        let mut all: BTreeMap<u32, Fault> = self.directory.read(FAULTS)?.unwrap_or_default();
        all.remove(&fault.number);
        self.directory.write(FAULTS, &all)
    }

    fn undo_step(&mut self, step: &Undo) -> Result<(), String> {
        match step {
            Undo::Run { machine, command } => self.run_in(machine, command),
            Undo::Bird { machine, command } => self.birdc(machine)?.ask(command).map(|_| ()),
            Undo::Continue { processes } => {
                processes.iter().for_each(|process| {
                    process.signal(Signal::CONT);
                });
                Ok(())
            }
            Undo::End { process } => {
                process.signal(Signal::KILL);
                Ok(())
            }
            Undo::StandIn { server, interface } => self.announce_by_stand_in(server, interface).map(|_| ()),
            Undo::Wire { between: [a, b], message } => self.tell_wire(a, b, message),
        }
    }

    fn run_in(&self, machine: &str, command: &[String]) -> Result<(), String> {
        let (program, arguments) = command.split_first().ok_or("no command")?;
        let output = self.entrance(machine)?.command(program).args(arguments).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        Err(format!("{machine}: {}: {}", command.join(" "), reason.trim()))
    }

    fn tell_wire(&self, a: &str, b: &str, message: &Value) -> Result<(), String> {
        let cable = self.plan.cable(a, b).ok_or_else(|| format!("there is no link between {a} and {b}"))?;
        let path = self.carrier_socket(cable);
        let sent =
            UnixDatagram::unbound().and_then(|socket| socket.send_to(message.to_string().as_bytes(), &path));
        sent.map(|_| ()).map_err(|error| format!("the wire at {}: {error}", path.display()))
    }
}

impl Undo {
    fn run(machine: &str, command: &str) -> Self {
        let command = command.split(' ').map(str::to_owned).collect();
        Self::Run { machine: machine.to_owned(), command }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "#{} {} (`lab fault heal {}` undoes it)", self.number, self.what, self.number)
    }
}

const FAULTS: &str = "faults.json";
