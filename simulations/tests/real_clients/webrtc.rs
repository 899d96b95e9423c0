//! WebRTC stacks that may only use relay candidates: aiortc, GStreamer's webrtcbin and Chromium.

use crate::site::{SERVER_V4, Site};
use crate::tools::{SYSTEM_PYTHON, python, script};
use crate::uclient::Transport;

/// A call between two aiortc peers.
pub fn aiortc_call(site: &Site, transport: Transport) -> Result<(), String> {
    expect_ok(site, &python(), "aiortc_relay.py", &[&uri(transport), "alice", "secret"])
}

/// A call between two webrtcbin elements.
pub fn gstreamer_call(site: &Site, transport: Transport) -> Result<(), String> {
    let server = format!("{SERVER_V4}:3478");
    let arguments = [server.as_str(), "alice", "secret", "--transport", transport.name()];
    expect_ok(site, SYSTEM_PYTHON, "gst_relay.py", &arguments)
}

/// A call between two peer connections of one Chromium page.
pub fn chromium_call(site: &Site, url: &str) -> Result<(), String> {
    expect_ok(site, &python(), "chromium_relay.py", &[url, "alice", "secret"])
}

/// The demo page, opened by its printed link from another address than the server's own.
pub fn demo_page_call(site: &Site, arguments: &[&str]) -> Result<(), String> {
    let (id, secret) =
        (site.server.quickstart_text("/turnKey/id")?, site.server.quickstart_text("/turnKey/secret")?);
    let api = site.server.quickstart_text("/api")?;
    let page = format!("{}/#key={id}:{secret}", api.trim_end_matches("/v1"));
    let mut all = vec![page.as_str(), "--ignore-certificate-errors", "--seconds", "3"];
    all.extend_from_slice(arguments);
    expect_ok(site, &python(), "demo_page.py", &all)
}

/// The TURN URI (RFC 7065) of the site's server.
pub fn uri(transport: Transport) -> String {
    match transport {
        Transport::Udp => format!("turn:{SERVER_V4}:3478?transport=udp"),
        Transport::Tcp => format!("turn:{SERVER_V4}:3478?transport=tcp"),
        Transport::Tls => format!("turns:{SERVER_V4}:5349?transport=tcp"),
    }
}

fn expect_ok(site: &Site, python: &str, name: &str, arguments: &[&str]) -> Result<(), String> {
    let script = script(name);
    let mut all = vec![script.as_str()];
    all.extend_from_slice(arguments);
    let (code, client) = site.run_client(name, python, &all)?;
    let said_ok = client.wait_for_line("OK", std::time::Duration::ZERO).is_ok();
    if code == 0 && said_ok {
        return Ok(());
    }
    Err(format!("{name} ended with exit code {code}\n{}", client.log()))
}
