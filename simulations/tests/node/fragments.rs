//! DONT-FRAGMENT (RFC 8656 §14.8) on a narrow path to the peer.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use trunkline_simulations::netns::{Namespace, Veth};
use trunkline_simulations::turn_client::TurnClient;
use trunkline_simulations::turn_client::message::{Class, MessageBuilder, Method, attribute};

use crate::Named;
use crate::site::{Carrier, Check, Family, PATIENCE, Site, on_site_with};

pub const TRIALS: &[Named] = &[("dont_fragment_is_heeded_on_a_path_with_an_mtu_of_1000", narrow_path)];

fn narrow_path() -> Result<(), String> {
    let far = Namespace::new("far").map_err(|error| error.to_string())?;
    let narrow = |machine: &Namespace, _: &Namespace| {
        let link = Veth::connect(machine, "12.0.0.1/24", &far, "12.0.0.2/24")?;
        for (space, interface) in [&link.a, &link.b] {
            space.ip(&["link", "set", interface, "mtu", "1000"])?;
        }
        far.default_route(IpAddr::V4(Ipv4Addr::new(12, 0, 0, 1)))
    };
    on_site_with(narrow, &[], |site| check(site, &far))
}

fn check(site: &mut Site, far: &Namespace) -> Check {
    let (mut client, allocated) = site.allocated(Carrier::Udp, Family::V4)?;
    // Both see the same datagrams; the raw one sees the IP header too.
    let (peer, mut raw) = far.enter(|| -> std::io::Result<(UdpSocket, Socket)> {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
        Ok((UdpSocket::bind(("12.0.0.2", 0))?, raw))
    })??;
    raw.set_read_timeout(Some(PATIENCE))?;
    peer.set_read_timeout(Some(PATIENCE))?;
    let address = peer.local_addr()?;
    client.create_permission(&[address.ip()])?;

    for (length, dont_fragment) in [(800, false), (800, true), (1_200, false)] {
        send(&mut client, address, length, dont_fragment)?;
        let at = || format!("{length} bytes, DF {dont_fragment}");
        let mut buffer = [0; 2_000];
        let (arrived, from) = peer.recv_from(&mut buffer).with_context(at)?;
        ensure!((arrived, from) == (length, allocated.relayed), "{}: {arrived} bytes from {from}", at());
        let mut packet = [0; 2_000];
        let seen = raw.read(&mut packet).with_context(at)?;
        ensure!(seen == length + 28, "{}: a packet of {seen} bytes", at());
        ensure!((packet[6] & 0x40 != 0) == dont_fragment, "{}: the header says otherwise", at());
    }

    let before = site.metric(TOO_LARGE)?;
    send(&mut client, address, 1_200, true)?;
    site.wait_for_metric(TOO_LARGE, before + 1)?;
    // The next one is for the socket what the first was.
    send(&mut client, address, 1_201, false)?;
    let (arrived, _) = peer.recv_from(&mut [0; 2_000])?;
    ensure!(arrived == 1_201, "{arrived} bytes arrived although they had to stay whole");
    Ok(())
}

fn send(client: &mut TurnClient, peer: SocketAddr, length: usize, dont_fragment: bool) -> Check {
    let mut indication = MessageBuilder::new(Method::SEND, Class::Indication, b"dontfragment")
        .xor_address(attribute::XOR_PEER_ADDRESS, peer);
    if dont_fragment {
        indication = indication.attribute(DONT_FRAGMENT, &[]);
    }
    client.send_raw(&indication.attribute(attribute::DATA, &vec![0x5A; length]).finish())?;
    Ok(())
}

const DONT_FRAGMENT: u16 = 0x001A;
const TOO_LARGE: &str = "trunkline_turn_dropped_packets_total{reason=\"send_too_large\"}";
