//! What must be installed for a trial to run, looked for once per test run.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use trunkline_simulations::{netns, server};

/// Something that a trial cannot do without.
#[derive(Debug, Clone, Copy)]
pub enum Tool {
    /// coturn's test client and peer.
    Uclient,
    /// Python with aiortc.
    Aiortc,
    /// The system's Python with GStreamer's webrtcbin.
    Gstreamer,
    /// Python with Playwright, and a Chromium.
    Chromium,
}

/// Why a trial that needs `tool` cannot run on this machine; `None` when it can.
pub fn missing(tool: Tool) -> Option<String> {
    static LAB: OnceLock<Option<String>> = OnceLock::new();
    static UCLIENT: OnceLock<Option<String>> = OnceLock::new();
    static AIORTC: OnceLock<Option<String>> = OnceLock::new();
    static GSTREAMER: OnceLock<Option<String>> = OnceLock::new();
    static CHROMIUM: OnceLock<Option<String>> = OnceLock::new();

    let found = match tool {
        Tool::Uclient => UCLIENT.get_or_init(|| require_programs(&["turnutils_uclient", "turnutils_peer"])),
        Tool::Aiortc => AIORTC.get_or_init(|| require_python(&python(), "import aiortc")),
        Tool::Gstreamer => GSTREAMER.get_or_init(|| require_python(SYSTEM_PYTHON, WEBRTCBIN_PROBE)),
        Tool::Chromium => CHROMIUM.get_or_init(|| {
            require_programs(&[CHROMIUM_BIN])
                .or_else(|| require_python(&python(), "import playwright.sync_api"))
        }),
    };
    let lab = LAB.get_or_init(|| netns::require_root().err().or_else(|| server::binary().err()));
    lab.clone().or_else(|| found.clone())
}

/// The Python that has aiortc and Playwright: `$TRUNKLINE_TEST_PYTHON`, or the environment that
/// `deploy/test` makes.
pub fn python() -> String {
    std::env::var("TRUNKLINE_TEST_PYTHON")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/clients/bin/python").to_owned())
}

/// The path of one of our client scripts.
pub fn script(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "clients", name].iter().collect();
    path.to_string_lossy().into_owned()
}

fn require_programs(programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let absent = programs.iter().find(|program| !is_there(program));
    absent.map(|program| format!("{program} is not installed"))
}

fn require_python(python: &str, probe: &str) -> Option<String> {
    let mut command = Command::new(python);
    let status = command.args(["-c", probe]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => None,
        Ok(_) => Some(format!("{python} cannot run `{probe}`")),
        Err(error) => Some(format!("{python}: {error}")),
    }
}

/// GStreamer's bindings belong to the system's own Python, whatever comes first in PATH.
pub const SYSTEM_PYTHON: &str = "/usr/bin/python3";
/// An absolute path is accepted by `require_programs` as well: joining it to a directory leaves it as it is.
const CHROMIUM_BIN: &str = "/usr/bin/chromium";
const WEBRTCBIN_PROBE: &str = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstWebRTC', '1.0'); \
     from gi.repository import Gst, GstWebRTC; Gst.init(None); \
     assert all(map(Gst.ElementFactory.find, ['webrtcbin', 'nicesrc', 'vp8enc', 'rtpvp8pay', 'videotestsrc']))";
