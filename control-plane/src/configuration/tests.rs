//! Differences, digests and refusals of configurations.

use proptest::prelude::*;
use trunkline_proto::fleet::v1::Settings;

use super::*;

fn whole(counter: u64, seed: &[u8]) -> Configuration {
    let pick = |at: usize| seed.get(at).copied().unwrap_or(0);
    let members = (0..8_u32).filter(|server| pick(*server as usize) & 1 == 1).map(|server| Member {
        node: Some(NodeMessage { site: 1, server: server + 1 }),
        encapsulation_address: format!("10.0.0.{server}:{}", 6_000 + u32::from(pick(server as usize) >> 6)),
        host_addresses: vec![],
    });
    let slices = (9..20_u32).filter(|index| pick(*index as usize) & 2 == 2).map(|index| Slice {
        address: "192.0.2.1".into(),
        index,
        state: SliceState::Owned as i32,
        owner: Some(NodeMessage { site: 1, server: u32::from(pick(index as usize) >> 4) }),
        lease: u64::from(pick(index as usize)),
    });
    let keys = (0..4_usize)
        .filter(|key| pick(20 + key) & 1 == 1)
        .map(|key| TurnKey { id: format!("k{key}"), secret: format!("s{}", pick(20 + key)) });
    let rows: Vec<u8> = (0..16 * ROW_BYTES).map(|at| pick(at % 31) >> (at % 3)).collect();
    let mut full = Configuration {
        epoch: Some(Epoch { generation: 1, counter }),
        members: members.collect(),
        table: Some(SteeringTable {
            site: 1,
            row_count: 16,
            index: (0..16).collect(),
            rows,
            hash_key: vec![7; 16],
        }),
        slices: slices.collect(),
        keys: keys.collect(),
        fleet_keys: Some(FleetKeys { keys: vec![FleetKey { id: u32::from(pick(30)), secret: vec![1; 16] }] }),
        settings: Some(Settings { user_quota: u32::from(pick(29)), ..Settings::default() }),
        settings_version: u64::from(pick(28)),
        draining: pick(27) & 1 == 1,
        ..Configuration::default()
    };
    full.digest = digest(&full).to_vec();
    full
}

proptest! {
    #[test]
    fn the_difference_applied_to_the_old_gives_the_new(
        old in proptest::collection::vec(any::<u8>(), 32),
        new in proptest::collection::vec(any::<u8>(), 32),
    ) {
        let (old, new) = (whole(5, &old), whole(6, &new));
        let update = difference(&old, &new);
        let applied = apply(&old, update);
        prop_assert!(applied.is_ok_and(|applied| applied == new));
    }
}

#[test]
fn an_older_epoch_another_base_and_damage_are_refused() {
    let (old, new) = (whole(5, &[3; 32]), whole(6, &[7; 32]));
    let refusal = |outcome: Result<Configuration, Refusal>| outcome.err().map(|refusal| refusal.to_string());
    let older = refusal(apply(&new, difference(&new, &old))).unwrap();
    assert!(older.contains("1.5") && older.contains("1.6"), "{older}");
    assert_eq!(
        refusal(apply(&whole(4, &[3; 32]), difference(&old, &new))),
        Some(Refusal::OtherBase.to_string())
    );
    let mut damaged = difference(&old, &new);
    damaged.draining = !damaged.draining;
    assert_eq!(refusal(apply(&old, damaged)), Some(Refusal::WrongDigest.to_string()));
}

#[test]
fn a_generation_outranks_every_counter() {
    assert!(is_newer(Epoch { generation: 2, counter: 0 }, Epoch { generation: 1, counter: 900 }));
    assert!(!is_newer(Epoch { generation: 1, counter: 9 }, Epoch { generation: 1, counter: 9 }));
}

#[test]
fn a_slice_of_nobody_and_a_torn_table_are_named() {
    let mut full = whole(5, &[7; 32]);
    full.slices[0].owner = None;
    full.digest = digest(&full).to_vec();
    let refusal = apply(&whole(4, &[0; 32]), full).err().unwrap().to_string();
    assert!(refusal.starts_with("slices: 192.0.2.1"), "{refusal}");
    let mut full = whole(5, &[7; 32]);
    full.table.as_mut().unwrap().rows.pop();
    full.digest = digest(&full).to_vec();
    assert!(apply(&whole(4, &[0; 32]), full).err().unwrap().to_string().starts_with("table:"));
}
