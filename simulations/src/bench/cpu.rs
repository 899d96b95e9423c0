//! What a server costs: its core's busy time, its threads' time, its resident memory, all as the kernel counts them.

use std::fs;
use std::io;
use std::time::Duration;

use super::lab::SERVER_CORE;

/// Counters at one moment; the difference of two is what was spent between them.
#[derive(Debug, Clone, Copy)]
pub struct CpuSample {
    core: Duration,
    threads: Duration,
}

/// CPU time spent between two samples.
#[derive(Debug, Clone, Copy)]
pub struct CpuSpent {
    /// Everything on the server's core that is not idle: threads, interrupts, softirq.
    pub core: Duration,
    /// The server's threads alone, with what softirq ran on top of them.
    pub threads: Duration,
}

impl CpuSample {
    /// Reads the counters of the server's core and of the process `pid`.
    pub fn now(pid: u32) -> io::Result<Self> {
        Ok(Self { core: core_busy()?, threads: threads_run(pid)? })
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Self) -> CpuSpent {
        CpuSpent {
            core: self.core.saturating_sub(earlier.core),
            threads: self.threads.saturating_sub(earlier.threads),
        }
    }
}

/// Resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.ok_or_else(|| io::Error::other("no VmRSS in /proc/PID/status"))? * 1024)
}

/// proc_pid_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, … in clock ticks.
fn core_busy() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{SERVER_CORE}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name));
    let line = line.ok_or_else(|| io::Error::other(format!("no {name} in /proc/stat")))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        return Err(io::Error::other("/proc/stat has an unknown form"));
    };
    // SAFETY: sysconf touches no memory.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok(Duration::from_secs_f64((user + nice + system + irq + softirq) as f64 / ticks_per_second))
}

/// The first field of each thread's schedstat: nanoseconds on a core.
fn threads_run(pid: u32) -> io::Result<Duration> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("schedstat"))?;
        total += stat.split_whitespace().next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(total))
}
