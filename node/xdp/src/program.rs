//! Loads the program and fills its maps.

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use trunkline_steer::{FiveTuple, Reason};
use zerocopy::transmute_ref;

use crate::layout::{Config, Flow, Health, Neighbour};

/// What `build.rs` compiled.
pub(crate) const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
const CONFIG_BYTES: usize = size_of::<Config>();
const FLOW_BYTES: usize = size_of::<Flow>();
const HEALTH_BYTES: usize = size_of::<Health>();
const NEIGHBOUR_BYTES: usize = size_of::<Neighbour>();
const COUNTER_BYTES: usize = 16;

/// Why the flow steerer does not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The object, or the kernel's verifier.
    #[error("the flow steerer cannot be loaded: {0}")]
    Load(#[from] EbpfError),
    /// The program.
    #[error("the flow steerer cannot be used: {0}")]
    Program(#[from] ProgramError),
    /// A map.
    #[error("the flow steerer's tables cannot be written: {0}")]
    Map(#[from] MapError),
    /// It is another object than this version's.
    #[error("the flow steerer's object has no {0}")]
    Missing(&'static str),
}

/// What happened for one reason since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, those of Ethernet included.
    pub bytes: u64,
}

/// The loaded program and its maps.
pub struct Program {
    ebpf: Ebpf,
    configs: Array<MapData, [u8; CONFIG_BYTES]>,
    in_force: Array<MapData, u32>,
    flows: HashMap<MapData, [u8; FLOW_BYTES], u32>,
    neighbours: PerCpuArray<MapData, [u8; NEIGHBOUR_BYTES]>,
    healths: Array<MapData, [u8; HEALTH_BYTES]>,
    counters: PerCpuArray<MapData, [u8; COUNTER_BYTES]>,
}

impl Program {
    /// Loads it. It passes everything until [`Program::put_in_force`].
    ///
    /// # Errors
    /// [`LoadError`]: it needs CAP_BPF and CAP_NET_ADMIN, and a kernel with BTF.
    pub fn load() -> Result<Self, LoadError> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        for name in [STEER, PASS, MEASURE] {
            xdp(&mut ebpf, name)?.load()?;
        }
        let mut map = |name: &'static str| -> Result<Map, LoadError> {
            ebpf.take_map(name).ok_or(LoadError::Missing(name))
        };
        let (configs, in_force) = (map("configs")?.try_into()?, map("in_force")?.try_into()?);
        let (flows, neighbours) = (map("flows")?.try_into()?, map("neighbours")?.try_into()?);
        let (healths, counters) = (map("healths")?.try_into()?, map("counters")?.try_into()?);
        Ok(Self { ebpf, configs, in_force, flows, neighbours, healths, counters })
    }

    /// The steering program, to be attached or tried.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn steer(&mut self) -> Result<&mut Xdp, LoadError> {
        xdp(&mut self.ebpf, STEER)
    }

    /// The steering program and, after it, the undoing of what it did to an IPv4 frame over an IPv4 fabric: for benchmarks,
    /// which run it over the same frame again and again.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn measure(&mut self) -> Result<&mut Xdp, LoadError> {
        xdp(&mut self.ebpf, MEASURE)
    }

    /// The program that passes everything: for the far end of a virtual link, which delivers what the near end sends only if
    /// it runs a program as well.
    ///
    /// # Errors
    /// [`LoadError::Missing`].
    pub fn pass(&mut self) -> Result<&mut Xdp, LoadError> {
        xdp(&mut self.ebpf, PASS)
    }

    /// Puts tables in force, all of them between two packets.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_in_force(&mut self, config: &Config) -> Result<(), LoadError> {
        // The other of the two: packets that are under way still read the one in force.
        let next = if self.in_force.get(&0, 0)? == 1 { 1 } else { 0 };
        let bytes: &[u8; CONFIG_BYTES] = transmute_ref!(config);
        self.configs.set(next, bytes, 0)?;
        Ok(self.in_force.set(0, next.saturating_add(1), 0)?)
    }

    /// Tells which server of the site has a client's flow.
    ///
    /// # Errors
    /// The kernel's: a million flows are known at most.
    pub fn register(&mut self, flow: &FiveTuple, server: u16) -> Result<(), LoadError> {
        let key = Flow::from(flow);
        let key: &[u8; FLOW_BYTES] = transmute_ref!(&key);
        Ok(self.flows.insert(key, u32::from(server), 0)?)
    }

    /// Forgets a client's flow.
    ///
    /// # Errors
    /// The kernel's; that it was not known is none.
    pub fn forget(&mut self, flow: &FiveTuple) -> Result<(), LoadError> {
        let key = Flow::from(flow);
        match self.flows.remove(transmute_ref!(&key)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Says which servers do not answer, and when this process last gave a sign of life.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_health(&mut self, health: &Health) -> Result<(), LoadError> {
        let bytes: &[u8; HEALTH_BYTES] = transmute_ref!(health);
        Ok(self.healths.set(0, bytes, 0)?)
    }

    /// Says how frames reach a server; without that the kernel's routes are asked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_neighbour(&mut self, server: u16, neighbour: Neighbour) -> Result<(), LoadError> {
        let bytes: [u8; NEIGHBOUR_BYTES] = zerocopy::transmute!(neighbour);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
        let values = PerCpuValues::try_from(vec![bytes; cpus]).map_err(MapError::IoError)?;
        Ok(self.neighbours.set(server.into(), values, 0)?)
    }

    /// What happened so far for a reason.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counter(&self, reason: Reason) -> Result<Counter, LoadError> {
        let values = self.counters.get(&u32::from(reason as u8), 0)?;
        let add = |sum: Counter, value: &[u8; COUNTER_BYTES]| {
            let [packets, bytes]: [u64; 2] = zerocopy::transmute!(*value);
            Counter { packets: sum.packets.wrapping_add(packets), bytes: sum.bytes.wrapping_add(bytes) }
        };
        Ok(values.iter().fold(Counter::default(), add))
    }
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    Ok(program.try_into()?)
}

const STEER: &str = "trunkline_steer";
const PASS: &str = "trunkline_pass";
const MEASURE: &str = "trunkline_measure";
