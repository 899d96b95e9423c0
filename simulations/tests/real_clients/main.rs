//! Real clients through a real server: every trial starts the built `trunkline` in network namespaces of
//! its own and lets somebody else's TURN or WebRTC implementation use it.
//!
//! Without root, or without one of the clients, the trials that need it are counted as ignored. With
//! `CI=true` they fail instead: there, everything must have been installed (`deploy/test` does that).

mod issued;
mod site;
mod tools;
mod uclient;
mod webrtc;

use libtest_mimic::{Arguments, Trial};

use site::{ALLOW_PEERS, on_site, on_site_of_deploy_up};
use tools::{Tool, missing};
use uclient::{Route, Transport, Usage, be_refused, relay_everything};

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(uclient_trials());
    trials.extend(refusal_trials());
    trials.extend(webrtc_trials());
    libtest_mimic::run(&arguments, trials).exit();
}

/// A trial that needs `tool`.
fn trial(name: &str, tool: Tool, run: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    trunkline_simulations::trial::trial(name, missing(tool), run)
}

fn uclient_trials() -> Vec<Trial> {
    let usages = Usage::all().into_iter().map(|usage| {
        trial(&usage.name(), Tool::Uclient, move || {
            on_site(&ALLOW_PEERS, |site| relay_everything(site, usage, &ALICE))
        })
    });
    let extras = EXTRA_REQUESTS.iter().map(|(name, flag)| {
        trial(name, Tool::Uclient, move || {
            let credentials = [&ALICE[..], &[flag]].concat();
            on_site(&ALLOW_PEERS, |site| {
                relay_everything(site, Usage::plain(Route::EchoingPeer), &credentials)
            })
        })
    });
    let issued = [
        trial("uclient_with_static_auth_secret", Tool::Uclient, issued::static_auth_secret_relays),
        trial("uclient_with_issued_credentials", Tool::Uclient, issued::issued_credentials_relay),
    ];
    usages.chain(extras).chain(issued).collect()
}

fn refusal_trials() -> Vec<Trial> {
    let wrong_passwords = [Transport::Udp, Transport::Tcp, Transport::Tls].map(|transport| {
        let name = format!("uclient_{}_with_a_wrong_password_is_refused", transport.name());
        trial(&name, Tool::Uclient, move || {
            let usage = Usage { transport, ..Usage::plain(Route::EchoingPeer) };
            let credentials = ["-u", "alice", "-w", "guessed"];
            on_site(&ALLOW_PEERS, |site| be_refused(site, usage, &credentials, "Cannot complete Allocation"))
        })
    });
    let private_peer =
        trial("uclient_cannot_reach_a_private_peer_that_is_not_allowed", Tool::Uclient, || {
            let usage = Usage::plain(Route::EchoingPeer);
            on_site(&[], |site| be_refused(site, usage, &ALICE, "error 403"))
        });
    let revoked = trial(
        "uclient_with_revoked_credentials_is_refused",
        Tool::Uclient,
        issued::revoked_credentials_are_refused,
    );
    wrong_passwords.into_iter().chain([private_peer, revoked]).collect()
}

fn webrtc_trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        trials.push(trial(&format!("aiortc_{}", transport.name()), Tool::Aiortc, move || {
            on_site(&[], |site| webrtc::aiortc_call(site, transport))
        }));
        trials.push(trial(&format!("gstreamer_{}", transport.name()), Tool::Gstreamer, move || {
            on_site(&[], |site| webrtc::gstreamer_call(site, transport))
        }));
    }
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        trials.push(trial(&format!("chromium_{}", transport.name()), Tool::Chromium, move || {
            on_site(&[], |site| webrtc::chromium_call(site, &webrtc::uri(transport)))
        }));
        trials.push(trial(&format!("demo_page_{}", transport.name()), Tool::Chromium, move || {
            on_site(&[], |site| webrtc::demo_page_call(site, &["--transport", transport.name()]))
        }));
    }
    trials.push(trial("chromium_udp_ipv6", Tool::Chromium, || {
        on_site(&[], |site| webrtc::chromium_call(site, "turn:[fd60::1]:3478?transport=udp"))
    }));
    trials.push(trial("deploy_up_serves_a_call_of_the_demo_page", Tool::Chromium, || {
        on_site_of_deploy_up(|site| webrtc::demo_page_call(site, &[]))
    }));
    trials.push(trial("demo_page_network_test", Tool::Chromium, || {
        on_site(&[], |site| webrtc::demo_page_call(site, &["--network-test"]))
    }));
    trials
}

/// Flags of `turnutils_uclient` that add requests or attributes to the plain run.
///
/// `-Z` (both address families) is not among them: Debian's coturn 4.6.1 asks for the second family with a number of
/// a draft (0x8032) and not with ADDITIONAL-ADDRESS-FAMILY (0x8000, RFC 8656 §18.1), and so gets one family.
const EXTRA_REQUESTS: [(&str, &str); 3] = [
    ("uclient_with_dont_fragment", "-g"),
    ("uclient_with_repeated_permissions_and_channels", "-G"),
    ("uclient_with_padded_channel_data", "-D"),
];
const ALICE: [&str; 4] = ["-u", "alice", "-w", "secret"];
