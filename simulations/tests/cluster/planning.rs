//! The steering tables follow drains, weights, deaths and newcomers, and nothing else moves.

use std::time::Duration;

use trunkline_proto::operator::v1::{Table, node::State};
use trunkline_simulations::cluster::{Cluster, View, wait_until};

use crate::Named;
use crate::fleet::{
    Check, FOUR, PATIENCE, ensure, moved, node_view, on_cluster, rows_by_server, settled, slices_are_disjoint,
};

pub const TRIALS: &[Named] = &[
    ("a_drain_moves_exactly_the_drained_servers_rows_in_two_phases", || on_cluster(3, 2, &FOUR, drain)),
    ("a_weight_change_moves_the_floor_and_no_more_than_the_dead_band", || {
        on_cluster(1, 1, &["1.1", "1.2"], weight)
    }),
    ("a_drain_an_addition_and_a_death_at_once_leave_every_row_with_a_live_server", || {
        on_cluster(1, 2, &["1.1", "1.2", "1.3"], several)
    }),
    ("a_hung_node_delays_no_plan", || on_cluster(1, 1, &["1.1", "1.2", "1.3"], hung)),
];

fn drain(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &FOUR)?;
    let (before, elsewhere) = (view.table(1)?, view.table(2)?);
    cluster.ctl().json(&["drain", "1.2", "--no-wait"])?;
    let mut phase_one = None;
    wait_until("the rows have moved", PATIENCE, || {
        let table = view.table(1)?;
        let waiting = table.rows.iter().filter(|row| row.next != 0).count();
        if waiting > 0 && phase_one.is_none() {
            let is_moving = |row: &&trunkline_proto::operator::v1::Row| row.next != 0;
            let wrong =
                table.rows.iter().filter(is_moving).filter(|row| row.current != 2 || row.next != 1).count();
            phase_one = Some((waiting, wrong));
        }
        Ok(!rows_by_server(&table).contains_key(&2))
    })?;
    let after = view.table(1)?;
    let all_of_two = before.rows.iter().filter(|row| row.current == 2).count();
    ensure(moved(&before, &after).len() == all_of_two, || "other rows moved as well".into())?;
    ensure(moved(&before, &after).iter().all(|(old, new)| old.current == 2 && new.previous_1 == 2), || {
        "a moved row does not remember its owner".into()
    })?;
    ensure(moved(&elsewhere, &view.table(2)?).is_empty(), || "the other site's rows moved".into())?;
    let (waiting, wrong) = phase_one.ok_or("nobody saw the first phase")?;
    ensure(wrong == 0 && waiting > 0, || format!("{wrong} of {waiting} rows were published wrongly"))?;
    wait_until("the node is drained", PATIENCE, || {
        Ok(node_view(&mut view, "1.2")?.state() == State::Drained)
    })?;
    cluster.ctl().json(&["undrain", "1.2"])?;
    wait_until("it gets rows again", Duration::from_secs(60), || {
        Ok(rows_by_server(&view.table(1)?).get(&2).is_some_and(|rows| *rows > 0))
    })?;
    slices_are_disjoint(&mut view)
}

fn weight(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "1.2"])?;
    let before = view.table(1)?;
    cluster.ctl().json(&["weight", "1.1", "0.5"])?;
    // 16,384 · 0.5 / 1.5 = 5,461⅓: 8,192 − 5,461 = 2,731 rows have to move, and a hundredth of a quota need not.
    let floor = 2_731;
    let band = 16_384 / 100;
    let enough = |table: &Table| moved(&before, table).len() >= floor - band;
    wait_until("the rows have moved", Duration::from_secs(90), || Ok(enough(&view.table(1)?)))?;
    std::thread::sleep(Duration::from_secs(3));
    let after = view.table(1)?;
    let count = moved(&before, &after).len();
    println!("{count} rows moved; the floor is {floor}");
    ensure(count <= floor + band, || format!("{count} rows moved, the floor is {floor}"))?;
    ensure(moved(&before, &after).iter().all(|(old, new)| (old.current, new.current) == (1, 2)), || {
        "a row moved the wrong way".into()
    })
}

fn several(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "1.2", "1.3"])?;
    cluster.ctl().json(&["drain", "1.2", "--no-wait"])?;
    cluster.nodes[2].kill();
    cluster.add_node("1.4", &[])?;
    wait_until("only the live servers have rows", Duration::from_secs(60), || {
        let rows = rows_by_server(&view.table(1)?);
        Ok(rows.keys().copied().collect::<Vec<_>>() == [1, 4])
    })?;
    slices_are_disjoint(&mut view)?;
    balanced(&mut view)
}

fn balanced(view: &mut View) -> Check {
    wait_until("the rows are shared evenly", Duration::from_secs(120), || {
        let rows = rows_by_server(&view.table(1)?);
        Ok(rows.values().all(|count| count.abs_diff(8_192) <= 200))
    })
    .map(|_| ())
}

fn hung(cluster: &mut Cluster) -> Check {
    let mut view = cluster.view()?;
    settled(&mut view, &["1.1", "1.2", "1.3"])?;
    cluster.nodes[2].process()?.signal(libc::SIGSTOP).map_err(|error| error.to_string())?;
    cluster.ctl().json(&["drain", "1.2", "--no-wait"])?;
    let took = wait_until("the drained server's rows have moved", Duration::from_secs(15), || {
        Ok(!rows_by_server(&view.table(1)?).contains_key(&2))
    });
    cluster.nodes[2].process()?.signal(libc::SIGCONT).map_err(|error| error.to_string())?;
    println!("with a hung server the drain's two phases took {:?}", took?);
    wait_until("the hung server is back", PATIENCE, || {
        Ok(node_view(&mut view, "1.3")?.state() == State::Ready)
    })
    .map(|_| ())
}
