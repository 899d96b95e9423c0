//! From a plan to a running lab.

use std::process::Command;
use std::time::{Duration, Instant};

use super::plan::{Cable, Carrier, End, Kind, Machine, Plan};
use super::processes::{self, Process};
use super::state::{Directory, Lock, Record};
use super::topology::{Dependence, Quality, Topology};
use super::{Lab, bird, namespace};
use crate::netns::{ip_batch, require_root};
use crate::server::program;

/// Builds a lab and waits until its routers know the way. If anything fails, nothing of it stays.
pub fn build(
    topology: &Topology,
    name: &str,
    owner: Option<Process>,
    progress: &mut dyn FnMut(&str),
) -> Result<Lab, String> {
    require_root()?;
    let bird = bird_program()?;
    super::topology::check_lab_name(name)?;
    let plan = Plan::of(topology);
    let directory = Directory::create(name)?;
    let lock = directory.lock()?;
    let lab = Lab {
        name: name.to_owned(),
        directory,
        topology: topology.clone(),
        plan,
        children: vec![],
        ends_with_value: true,
    };
    let record = Record { topology: topology.clone(), owner, complete: false, infrastructure: vec![] };
    Builder { lab, record, _lock: lock, bird }.run(progress)
}

struct Builder {
    // First, so that a failed build gives the lock back before the lab is torn down.
    _lock: Lock,
    lab: Lab,
    record: Record,
    bird: String,
}

impl Builder {
    fn run(mut self, progress: &mut dyn FnMut(&str)) -> Result<Lab, String> {
        self.keep()?;
        let (machines, cables) = (self.lab.plan.machines.clone(), self.lab.plan.cables.clone());
        progress(&format!("{} machines, {} cables", machines.len(), cables.len()));
        self.make_namespaces(&machines)?;
        self.make_cables(&cables)?;
        for machine in &machines {
            self.configure(machine)?;
        }
        let speakers: Vec<&Machine> = machines.iter().filter(|machine| machine.kind.speaks_bgp()).collect();
        progress(&format!("BIRD on {} of them", speakers.len()));
        for machine in &speakers {
            self.start_bird(machine)?;
        }
        self.lab.start_stand_ins()?;
        self.keep()?;
        wait_for_sessions(&self.lab, &speakers, progress)?;
        wait_for_routes(&self.lab)?;
        self.record.complete = true;
        self.keep()?;
        Ok(self.lab)
    }

    fn keep(&self) -> Result<(), String> {
        self.lab.directory.keep(&self.record)
    }

    fn make_namespaces(&self, machines: &[Machine]) -> Result<(), String> {
        let lines: Vec<String> =
            machines.iter().map(|machine| format!("netns add {}", self.space(&machine.name))).collect();
        ip_batch(None, &lines).map_err(|error| error.to_string())?;
        for machine in machines {
            let entrance = self.lab.entrance(&machine.name)?;
            entrance.set_sysctls(SYSCTLS).map_err(|error| format!("{}: {error}", machine.name))?;
            if machine.kind.forwards() {
                entrance.set_sysctls(FORWARDING).map_err(|error| format!("{}: {error}", machine.name))?;
            }
        }
        Ok(())
    }

    fn make_cables(&mut self, cables: &[Cable]) -> Result<(), String> {
        let veths = cables.iter().filter(|cable| cable.carrier == Carrier::Veth);
        let lines: Vec<String> = veths
            .map(|Cable { a, b, .. }| {
                let (space_a, space_b) = (self.space(&a.machine), self.space(&b.machine));
                format!(
                    "link add {} netns {space_a} type veth peer name {} netns {space_b}",
                    a.interface, b.interface
                )
            })
            .collect();
        ip_batch(None, &lines).map_err(|error| error.to_string())?;
        for (number, cable) in (self.record.topology.seed..).zip(cables) {
            match cable.carrier {
                Carrier::Veth => {}
                Carrier::Wire(quality) => {
                    self.start_carrier("wire", cable, wire_options(&quality), number)?
                }
                Carrier::Nat(nat) => {
                    let options = nat_options(cable, nat.mapping, nat.filtering);
                    self.start_carrier("nat", cable, options, number)?;
                }
            }
        }
        Ok(())
    }

    /// Starts `lab wire` or `lab nat`, which makes both ends. It runs in a namespace of the lab, so that it is found there.
    fn start_carrier(
        &mut self,
        kind: &str,
        cable: &Cable,
        options: Vec<String>,
        seed: u64,
    ) -> Result<(), String> {
        let place = |end: &End| format!("{}/{}", self.space(&end.machine), end.interface);
        let [near, far] = if kind == "wire" { ["--a", "--b"] } else { ["--outside", "--inside"] };
        let mut command = self.lab.entrance(&cable.a.machine)?.command(program("lab")?);
        command.arg(kind).args([near, &place(&cable.a), far, &place(&cable.b)]).args(options);
        command.args(["--seed", &seed.to_string(), "--control"]).arg(self.lab.carrier_socket(cable));
        let log = self.lab.directory.file(&format!("{}.{kind}.log", cable.b.machine));
        let (mut child, process) = processes::start_detached(command, &log)?;
        let ready =
            processes::wait_until_ready(&format!("the {kind} of {}", cable.b.machine), &mut child, &log);
        self.adopt(child, process)?;
        ready
    }

    /// Addresses, routes and interfaces of a machine.
    fn configure(&self, machine: &Machine) -> Result<(), String> {
        let name = &machine.name;
        let mut lines = vec!["link set lo up".to_owned()];
        if matches!(machine.kind, Kind::Server { .. }) {
            // On lo they stay while the announcement ends: a drain or a withdrawal cuts no flow off.
            for address in self.record.topology.anycast.all() {
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                lines.push(format!("address add {address}/{prefix} dev lo"));
            }
        }
        for (cable, own, _) in self.lab.plan.cables_of(name) {
            let [v4, v6] = own.addresses();
            let interface = &own.interface;
            lines.push(format!("link set {interface} mtu {} up", cable.mtu()));
            lines.push(format!("address add {v4} dev {interface}"));
            lines.push(format!("address add {v6} dev {interface} nodad"));
        }
        if let Some((cable, own, router)) = self.lab.plan.uplink(name).filter(|_| !machine.kind.forwards()) {
            for (everything, gateway) in
                [("0.0.0.0/0", router.v4.to_string()), ("::/0", router.v6.to_string())]
            {
                let via = match cable.carrier {
                    // A TUN has nobody to ask the way.
                    Carrier::Nat(_) => String::new(),
                    Carrier::Veth | Carrier::Wire(_) => format!(" via {gateway}"),
                };
                lines.push(format!("route add {everything}{via} dev {}", own.interface));
            }
        }
        ip_batch(Some(&self.space(name)), &lines).map_err(|error| format!("{name}: {error}"))?;
        let veths = self.lab.plan.cables_of(name).filter(|(cable, _, _)| cable.carrier == Carrier::Veth);
        let veths: Vec<&str> = veths.map(|(_, own, _)| own.interface.as_str()).collect();
        let entrance = self.lab.entrance(name)?;
        entrance.disable_transmit_offload(&veths).map_err(|error| format!("{name}: tx off: {error}"))
    }

    fn start_bird(&mut self, machine: &Machine) -> Result<(), String> {
        let name = &machine.name;
        let file = |ending: &str| self.lab.directory.file(&format!("{name}.{ending}"));
        let Topology { anycast, bfd, .. } = &self.record.topology;
        let log = file("bird.log");
        let text = bird::configuration(&self.lab.plan, machine, anycast, *bfd, &log.to_string_lossy());
        let configuration = file("conf");
        std::fs::write(&configuration, text)
            .map_err(|error| format!("{}: {error}", configuration.display()))?;
        // BFD's packets are due whatever else the machine does.
        let mut command = self.lab.entrance(name)?.command("nice");
        command.args(["-n", "-10", &self.bird, "-f", "-c"]).arg(configuration).arg("-s").arg(file("ctl"));
        let (child, process) = processes::start_detached(command, &file("bird.out"))?;
        self.adopt(child, process)
    }

    fn adopt(&mut self, child: std::process::Child, process: Process) -> Result<(), String> {
        self.lab.children.push(child);
        self.record.infrastructure.push(process);
        Ok(())
    }

    fn space(&self, machine: &str) -> String {
        namespace(&self.lab.name, machine)
    }
}

impl Lab {
    /// Where a wire or NAT is spoken to.
    pub fn carrier_socket(&self, cable: &Cable) -> std::path::PathBuf {
        self.directory.file(&format!("{}.{}.sock", cable.a.machine, cable.b.machine))
    }

    /// Starts the stand-ins that announce for servers from the beginning.
    fn start_stand_ins(&mut self) -> Result<(), String> {
        let wanted =
            self.plan.servers().filter(|server| matches!(server.kind, Kind::Server { announce: true, .. }));
        let wanted: Vec<String> = wanted.map(|server| server.name.clone()).collect();
        for server in wanted {
            self.announce_by_stand_in(&server, ANNOUNCING)?;
        }
        Ok(())
    }

    /// Starts a stand-in that announces the anycast addresses for a server by an interface of this name; see
    /// [`super::bird`] for what the name means.
    pub fn announce_by_stand_in(&mut self, server: &str, interface: &str) -> Result<Process, String> {
        let mut command: Command = self.entrance(server)?.command(program("lab")?);
        command.args(["announcer", "--interface", interface]);
        command.args(self.topology.anycast.all().iter().map(ToString::to_string));
        let log = self.directory.file(&format!("{server}.{interface}.log"));
        let (mut child, process) = processes::start_detached(command, &log)?;
        let ready = processes::wait_until_ready(&format!("the stand-in of {server}"), &mut child, &log);
        self.children.push(child);
        ready.map(|()| process)
    }
}

fn wait_for_sessions(lab: &Lab, speakers: &[&Machine], progress: &mut dyn FnMut(&str)) -> Result<(), String> {
    let since = Instant::now();
    let mut said = String::new();
    loop {
        let mut waiting = vec![];
        for machine in speakers {
            let open = open_sessions(lab, machine).unwrap_or_else(|fault| vec![fault]);
            waiting.extend(open.iter().map(|session| format!("{}: {session}", machine.name)));
        }
        if waiting.is_empty() {
            progress("all BGP and BFD sessions are up");
            return Ok(());
        }
        if since.elapsed() > SESSIONS_PATIENCE {
            return Err(format!("not up after {SESSIONS_PATIENCE:?}: {}", waiting.join("; ")));
        }
        let say = format!("waiting for {} BGP sessions", waiting.len());
        if say != said && since.elapsed() > Duration::from_secs(1) {
            progress(&say);
            said = say;
        }
        std::thread::sleep(POLL);
    }
}

fn open_sessions(lab: &Lab, machine: &Machine) -> Result<Vec<String>, String> {
    let mut birdc = lab.birdc(&machine.name)?;
    let sessions = birdc.sessions()?;
    let mut open: Vec<String> = sessions
        .iter()
        .filter(|session| session.state != "Established")
        .map(|session| format!("{} {}", session.name, session.state))
        .collect();
    let (up, all) = birdc.bfd()?;
    if up != all || all < sessions.len() {
        open.push(format!("BFD {up} of {all}"));
    }
    Ok(open)
}

/// The kernels have to know the ways as well: each site's router to all servers that announce, each client's to a site.
fn wait_for_routes(lab: &Lab) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let Some(missing) = missing_route(lab)? else { return Ok(()) };
        if since.elapsed() > ROUTES_PATIENCE {
            return Err(missing);
        }
        std::thread::sleep(POLL);
    }
}

fn missing_route(lab: &Lab) -> Result<Option<String>, String> {
    let announces = |server: &Machine| matches!(server.kind, Kind::Server { announce: true, .. });
    for edge in lab.plan.machines.iter().filter(|machine| matches!(machine.kind, Kind::Edge { .. })) {
        let servers = lab.plan.servers_behind(&edge.name);
        let wanted = servers.filter(|end| lab.plan.machine(&end.machine).is_some_and(announces)).count();
        for address in lab.topology.anycast.all() {
            let found = lab.paths(&edge.name, address)?.len();
            if found < wanted {
                return Ok(Some(format!("{} has {found} of {wanted} paths to {address}", edge.name)));
            }
        }
    }
    for host in lab.plan.hosts().filter(|_| lab.plan.servers().any(announces)) {
        for address in &lab.topology.anycast.service {
            if let Err(fault) = lab.way(&host.name, *address)?.site() {
                return Ok(Some(format!("{} does not reach {address}: {fault}", host.name)));
            }
        }
    }
    Ok(None)
}

fn wire_options(quality: &Quality) -> Vec<String> {
    let Quality { cost: _, delay_ms, jitter_ms, loss, rate_mbit } = *quality;
    let options =
        [("--delay-ms", delay_ms), ("--jitter-ms", jitter_ms), ("--loss", loss), ("--rate-mbit", rate_mbit)];
    let given = options.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?.to_string()]));
    given.flatten().collect()
}

fn nat_options(cable: &Cable, mapping: Dependence, filtering: Dependence) -> Vec<String> {
    let public = cable.public().map(|address| address.to_string()).join(",");
    let options = ["--public", &public, "--mapping", mapping.name(), "--filtering", filtering.name()];
    options.map(str::to_owned).to_vec()
}

/// Says whether this machine can have labs, and if not, what it lacks.
pub fn require() -> Result<(), String> {
    require_root()?;
    bird_program().map(|_| ())
}

fn bird_program() -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.push("/usr/sbin".into());
    let found = places.into_iter().map(|place| place.join("bird")).find(|file| file.is_file());
    let found = found.ok_or("BIRD 2 is needed: apt install bird2 (and systemctl disable --now bird)")?;
    Ok(found.to_string_lossy().into_owned())
}

/// An interface of this name announces.
pub const ANNOUNCING: &str = "any0";
/// An interface of this name asks the routers to look elsewhere first.
pub const DRAINING: &str = "anydrain0";

const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    // A link that was down for a while has its addresses when it comes back.
    ("net.ipv6.conf.all.keep_addr_on_down", "1"),
    ("net.ipv6.conf.default.keep_addr_on_down", "1"),
];
const FORWARDING: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    // The 5-tuple chooses among the servers of a site: policy 3 with source, destination, protocol and both ports (0x37).
    // Policy 1 means the same, but takes the hash that a packet on a veth still carries from the socket that sent it, a
    // random number that changes when TCP sends again.
    ("net.ipv4.fib_multipath_hash_fields", "0x37"),
    ("net.ipv4.fib_multipath_hash_policy", "3"),
    ("net.ipv6.fib_multipath_hash_fields", "0x37"),
    ("net.ipv6.fib_multipath_hash_policy", "3"),
];
const SESSIONS_PATIENCE: Duration = Duration::from_secs(30);
const ROUTES_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
