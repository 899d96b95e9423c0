//! What a node says once it serves: words for a person or a line for a program, quickstart.json, and `ready`.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use crate::api::{Api, unix_now_s};
use crate::ice::IceServer;
use crate::keys::NewKey;
use crate::options::Options;
use crate::start::Failure;

/// The content of quickstart.json, and what `--json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Quickstart<'a> {
    api: String,
    realm: &'a str,
    turn_key: TurnKey<'a>,
    addresses: &'a [IpAddr],
    turn_port: u16,
    tls_port: u16,
    admin_token: &'a str,
}

#[derive(Serialize)]
struct TurnKey<'a> {
    id: &'a str,
    secret: &'a str,
}

/// What an application gives to `RTCPeerConnection`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ForApplications {
    ice_servers: Vec<IceServer>,
}

/// Writes quickstart.json, then tells standard output.
pub(super) fn present(options: &Options, api: &Api, key: &NewKey) -> Result<(), Failure> {
    let base = base_url(options.http, &api.reachable.addresses);
    let quickstart = Quickstart {
        api: format!("{base}/v1"),
        realm: &options.realm,
        turn_key: TurnKey { id: &key.summary.id, secret: key.secret.reveal() },
        addresses: &api.reachable.addresses,
        turn_port: options.turn_port,
        tls_port: options.tls_port,
        admin_token: api.admin_token.reveal(),
    };
    // Text and numbers: this cannot fail.
    let line = serde_json::to_string(&quickstart).unwrap_or_default();
    let path = options.data_dir.join("quickstart.json");
    write(&path, &line).map_err(|cause| Failure::File { path: path.display().to_string(), cause })?;
    let text = if options.json { format!("{line}\n") } else { words(options, api, key, &base)? };
    let mut out = io::stdout().lock();
    // Whoever closed standard output does not want to know.
    let _ = writeln!(out, "{text}ready").and_then(|()| out.flush());
    Ok(())
}

fn words(options: &Options, api: &Api, key: &NewKey, base: &str) -> Result<String, Failure> {
    let minted = api.keys.mint(&key.summary.id, CREDENTIALS_S, None, unix_now_s())?;
    let ice = ForApplications { ice_servers: api.reachable.ice_servers(minted) };
    let list = |port: u16| {
        let all = api.reachable.addresses.iter().map(|ip| SocketAddr::new(*ip, port).to_string());
        all.collect::<Vec<_>>().join(", ")
    };
    let data = fs::canonicalize(&options.data_dir).unwrap_or_else(|_| options.data_dir.clone());
    let certificate = match &options.tls_cert {
        Some(path) => format!("certificate {}", path.display()),
        None => format!(
            "self-signed certificate {}\n               (browsers refuse it for turns: URLs; --tls-cert and --tls-key give a trusted one)",
            data.join("self-signed.crt").display()
        ),
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\nTrunkline {version} is up.\n\n\
         \x20 Demo page    {base}/#key={id}:{secret}\n\
         \x20 UDP and TCP  {turn}\n\
         \x20 TLS          {tls}\n\
         \x20              {certificate}\n\
         \x20 HTTP API     {base}/v1 (described in {base}/v1/openapi.json)\n\
         \x20 Data         {data} (keys and secrets; quickstart.json has what a script needs)\n\
         \x20 Stop         Ctrl-C, or kill {pid}\n\n\
         For a WebRTC application; the credentials end in 24 hours:\n\n{ice}\n\n",
        version = env!("CARGO_PKG_VERSION"),
        id = key.summary.id,
        secret = key.secret.reveal(),
        turn = list(options.turn_port),
        tls = list(options.tls_port),
        data = data.display(),
        pid = std::process::id(),
        ice = serde_json::to_string_pretty(&ice).unwrap_or_default(),
    );
    if !options.http.ip().is_loopback() {
        text.push_str(
            "The HTTP API is not encrypted: put a TLS proxy in front of it outside a trusted network.\n\n",
        );
    }
    Ok(text)
}

/// Where the HTTP API can be reached from this machine.
fn base_url(http: SocketAddr, addresses: &[IpAddr]) -> String {
    let of_the_same_family = addresses.iter().find(|ip| ip.is_ipv4() == http.is_ipv4());
    let ip =
        if http.ip().is_unspecified() { of_the_same_family.copied().unwrap_or(http.ip()) } else { http.ip() };
    format!("http://{}", SocketAddr::new(ip, http.port()))
}

/// Replaces the file as a whole; only its owner may read it.
fn write(path: &Path, line: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{line}")?;
    fs::rename(&new, path)
}

/// Printed credentials end after a day.
const CREDENTIALS_S: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_an_address_that_can_be_reached() {
        let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        for (http, url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("0.0.0.0:80", "http://192.0.2.1:80"),
            ("[::]:80", "http://[2001:db8::1]:80"),
        ] {
            assert_eq!(base_url(http.parse().unwrap(), &addresses), url);
        }
    }
}
