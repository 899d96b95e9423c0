//! File descriptors: an allocation needs one for each relayed address, a TCP client another one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as this process may.
pub(crate) fn raise() {
    let before = getrlimit(Resource::Nofile);
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    // Root may raise the hard limit too; for everybody else the hard limit is the most.
    let wanted = [most, before.maximum];
    let mut limits = wanted.into_iter().flatten();
    let _ = limits.any(|limit| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).is_ok()
    });
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < LIMIT_COMFORTABLE => {
            tracing::warn!(limit, "few file descriptors: an allocation takes one or two; raise `ulimit -Hn`");
        }
        limit => tracing::debug!(limit, "file descriptors"),
    }
}

/// Ten thousand allocations.
const LIMIT_COMFORTABLE: u64 = 16_384;
