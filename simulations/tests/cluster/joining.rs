//! Servers join with one-time tokens, and get a table, slices and keys.

use std::time::Duration;

use trunkline_simulations::cluster::{Cluster, Node, SHARED_RELAY};
use trunkline_simulations::turn_client::Credentials;

use crate::Named;
use crate::fleet::{Call, Check, FOUR, ensure, on_cluster, rows_by_server, settled, slices_are_disjoint};

pub const TRIALS: &[Named] = &[
    ("four_nodes_join_and_get_tables_and_slices", || on_cluster(3, 2, &FOUR, four_nodes)),
    ("a_token_works_once_and_an_expired_one_not_at_all", || on_cluster(1, 1, &["1.1"], tokens)),
    ("a_key_made_by_an_operator_works_on_every_node_and_not_after_its_deletion", || {
        on_cluster(1, 2, &["1.1", "2.1"], keys)
    }),
];

fn four_nodes(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &FOUR)?;
    slices_are_disjoint(&mut view)?;
    for site in [1, 2] {
        let rows = rows_by_server(&view.table(site)?);
        ensure(rows.len() == 2 && rows.values().all(|count| *count == 8_192), || {
            format!("site {site} has rows {rows:?}")
        })?;
    }
    for node in &cluster.nodes {
        let mut call = Call::begin(node)?;
        ensure(call.relayed.ip() == SHARED_RELAY, || format!("relays from {}", call.relayed))?;
        let slice = view.slices()?.into_iter().filter_map(|view| view.slice).find(|slice| {
            slice.address == SHARED_RELAY.to_string() && slice.index == u32::from(call.relayed.port() >> 10)
        });
        let owner = slice.map(|slice| crate::fleet::name(slice.owner));
        ensure(owner.as_ref() == Some(&node.id), || {
            format!("{} relays from {}, a slice of {owner:?}", node.id, call.relayed)
        })?;
        ensure(call.probe(1)?, || format!("nothing is relayed by {}", node.id))?;
    }
    Ok(())
}

fn tokens(cluster: &mut Cluster) -> Check {
    let join = |cluster: &Cluster, id: &str, token: &str| {
        let data = cluster.path(&format!("refused-{id}"));
        Node::join(&cluster.machine, &data, id, &cluster.endpoints(), token, &[])
    };
    let token = cluster.ctl().token("1.2")?;
    let _node = join(cluster, "1.2", &token)?;
    let again = join(cluster, "2.1", &token).err().ok_or("a token worked twice")?;
    ensure(again.contains("token"), || format!("unclear: {again}"))?;

    let added = cluster.ctl().json(&["nodes", "add", "2.2", "--token-lifetime", "1"])?;
    let token = added["token"].as_str().ok_or("no token")?.to_owned();
    std::thread::sleep(Duration::from_millis(2_100));
    let late = join(cluster, "2.2", &token).err().ok_or("an expired token worked")?;
    ensure(late.contains("expired"), || format!("unclear: {late}"))
}

fn keys(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "2.1"])?;
    let key = cluster.ctl().json(&["keys", "create", "an application"])?;
    let (id, secret) = (text(&key, "/key/id")?, text(&key, "/secret")?);
    let credentials = minted(&id, &secret);
    let mut calls = vec![];
    for node in &cluster.nodes {
        let call =
            trunkline_simulations::cluster::wait_until("the key works", Duration::from_secs(5), || {
                match Call::of(node.client_as(credentials.clone())?) {
                    Ok(call) => {
                        calls.push(call);
                        Ok(true)
                    }
                    Err(_) => Ok(false),
                }
            })?;
        println!("the key worked on {} after {call:?}", node.id);
    }
    cluster.ctl().json(&["keys", "delete", &id])?;
    for call in &mut calls {
        trunkline_simulations::cluster::wait_until("its allocations end", Duration::from_secs(5), || {
            Ok(!call.probe(7)?)
        })?;
    }
    Ok(())
}

/// The text at a JSON pointer.
pub fn text(value: &serde_json::Value, pointer: &str) -> Result<String, String> {
    let found = value.pointer(pointer).and_then(serde_json::Value::as_str);
    found.map(str::to_owned).ok_or_else(|| format!("no {pointer} in {value}"))
}

/// Credentials as an application with a key's secret mints them.
pub fn minted(key_id: &str, secret: &str) -> Credentials {
    named(key_id, secret, "somebody")
}

/// The same for a user with this name.
pub fn named(key_id: &str, secret: &str, name: &str) -> Credentials {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let user = format!("{}:{key_id}:{name}", now.map_or(0, |since| since.as_secs()) + 3_600);
    let password = trunkline_simulations::turn_client::message::time_limited_password(secret, &user);
    Credentials::new(user, password)
}
