//! No two servers ever use one slice: every order of events in a small world, and long random ones in a larger.

mod world;

use std::collections::{BTreeMap, HashSet};

use trunkline_fleet::Epoch;
use trunkline_fleet::slices::{self, SliceMember, Slices};
use trunkline_wire::NodeId;
use world::{Event, Planner, Rules, World};

#[test]
fn no_order_of_events_gives_a_slice_to_two_servers() {
    let rules = Rules { planner: slices::plan, notices_restores: true };
    for (name, world) in starts(rules) {
        let states = explore(world, rules, DEPTH).unwrap_or_else(|trace| panic!("{name}: {trace:?}"));
        println!("{name}: {states} states, all to depth {DEPTH}");
    }
}

#[test]
fn no_long_walk_gives_a_slice_to_two_servers() {
    let rules = Rules { planner: slices::plan, notices_restores: true };
    let steps = walks(rules, WALKS).unwrap_or_else(|trace| panic!("{trace:?}"));
    println!("{WALKS} walks, {steps} steps");
}

/// The checks above can fail: three broken planners are found out.
#[test]
fn planners_that_free_too_early_are_found_out() {
    let broken: [(&str, Planner); 2] = [
        ("believes reports made before the lease", believes_old_reports),
        ("frees what a silent server holds", frees_the_silent),
    ];
    for (name, planner) in broken {
        let trace = walks(Rules { planner, notices_restores: true }, WALKS).expect_err(name);
        println!("{name}: {} events: {trace:?}", trace.len());
    }
}

/// The third: after a restore it leases what a server may hold that was not heard since.
#[test]
fn a_planner_that_waits_for_nobody_after_a_restore_is_found_out() {
    let after_restore = |planner: Planner| {
        let rules = Rules { planner, notices_restores: true };
        let lost =
            [Event::Drain(1), Event::Snapshot, Event::Plan, Event::SendConfig(2), Event::TakeConfig(2)];
        let world = then(&World::new(2, 1), rules, lost);
        let world = then(&world, rules, [Event::Partition(2), Event::Restore, Event::Undrain(1)]);
        let told = [Event::SendConfig(1), Event::TakeConfig(1), Event::SendReport(1), Event::TakeReport(1)];
        let later =
            [Event::Plan].into_iter().chain(told).chain([Event::QuarantineEnds, Event::Plan]).chain(told);
        later.fold(world, |world, event| world.after(event, rules).unwrap_or(world)).used_twice()
    };
    assert_eq!(after_restore(slices::plan), None);
    assert!(after_restore(hurries_after_a_restore).is_some());
}

/// What is relied upon: a store that lost leases and that nobody knows to be restored leases them again.
#[test]
fn a_restore_that_nobody_notices_is_what_the_planner_cannot_survive() {
    let rules = Rules { planner: slices::plan, notices_restores: false };
    let lost = [Event::Drain(1), Event::Snapshot, Event::Plan, Event::SendConfig(2), Event::TakeConfig(2)];
    let again = [Event::Undrain(1), Event::Plan, Event::SendConfig(1), Event::TakeConfig(1)];
    let world = then(&World::new(2, 1), rules, lost);
    let world = then(&world, rules, [Event::Partition(2), Event::Restore]);
    assert!(then(&world, rules, again).used_twice().is_some());
    let noticed = then(&world, Rules { notices_restores: true, ..rules }, [Event::Undrain(1), Event::Plan]);
    let waits = noticed.after(Event::Plan, rules);
    assert!(waits.is_none(), "nothing is leased until the other server was heard");
}

/// Worlds to explore from: the beginning, and one with a past that its snapshot does not know.
fn starts(rules: Rules) -> Vec<(&'static str, World)> {
    let new = World::new(2, 2);
    let told = |number| {
        [
            Event::SendConfig(number),
            Event::TakeConfig(number),
            Event::SendReport(number),
            Event::TakeReport(number),
        ]
    };
    let settled = then(&new, rules, [Event::Plan].into_iter().chain(told(1)).chain(told(2)));
    let snapshot = then(&settled, rules, [Event::Snapshot]);
    // The first gives its slice back and the second gets it, of which the snapshot knows nothing.
    let drained = then(&snapshot, rules, [Event::Drain(1), Event::Plan].into_iter().chain(told(1)));
    let free = then(&drained, rules, [Event::Plan, Event::QuarantineEnds, Event::Plan, Event::Busy(2)]);
    let busy = then(&free, rules, told(2).into_iter().skip(2).chain([Event::Plan]).chain(told(2)));
    vec![("a new fleet", new), ("each has one", settled), ("a snapshot of another owner", busy)]
}

fn then(world: &World, rules: Rules, events: impl IntoIterator<Item = Event>) -> World {
    events.into_iter().fold(world.clone(), |world, event| {
        world.after(event, rules).unwrap_or_else(|| panic!("{event:?} changes nothing in {world:?}"))
    })
}

/// Breadth first. The number of states, or the events that led to a slice with two users.
fn explore(start: World, rules: Rules, depth: usize) -> Result<usize, Vec<Event>> {
    let mut known = HashSet::from([start.clone()]);
    let mut edge = vec![(start, vec![])];
    for _ in 0..depth {
        let mut next_edge = vec![];
        for (world, trace) in edge {
            for event in world.events() {
                let Some(next) = world.after(event, rules) else { continue };
                let trace: Vec<Event> = trace.iter().copied().chain([event]).collect();
                if next.used_twice().is_some() {
                    return Err(trace);
                }
                if known.insert(next.clone()) {
                    next_edge.push((next, trace));
                }
            }
        }
        edge = next_edge;
    }
    Ok(known.len())
}

/// Random walks. The number of steps, or the events that led to a slice with two users.
fn walks(rules: Rules, count: u64) -> Result<usize, Vec<Event>> {
    let mut steps = 0;
    for seed in 1..=count {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (mut world, mut trace) = (World::new(3, 4), vec![]);
        while trace.len() < STEPS {
            let mut events = world.events();
            // Rare, or most walks would be over before anything has been leased.
            events.retain(|event| !is_rare(*event) || draw(&mut random).is_multiple_of(12));
            let event = events[usize::try_from(draw(&mut random)).unwrap() % events.len()];
            let Some(next) = world.after(event, rules) else { continue };
            world = next;
            trace.push(event);
            steps += 1;
            if world.used_twice().is_some() {
                return Err(trace);
            }
        }
    }
    Ok(steps)
}

fn is_rare(event: Event) -> bool {
    matches!(
        event,
        Event::Destroy(_) | Event::Restore | Event::Snapshot | Event::Crash(_) | Event::Partition(_)
    )
}

/// xorshift64*: 32 good bits.
fn draw(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
}

type Members = BTreeMap<NodeId, SliceMember>;

fn believes_old_reports(slices: &Slices, members: &Members, now: u64, next: Epoch) -> Slices {
    let mut members = members.clone();
    for member in members.values_mut() {
        member.reported = Some(next);
    }
    slices::plan(slices, &members, now, next)
}

fn frees_the_silent(slices: &Slices, members: &Members, now: u64, next: Epoch) -> Slices {
    // Nobody reports while a server is busy: the worst moment to think that it is gone.
    let alive = members.iter().filter(|(_, member)| member.ports_in_use_permille == 0);
    slices::plan(slices, &alive.map(|(node, member)| (*node, member.clone())).collect(), now, next)
}

fn hurries_after_a_restore(slices: &Slices, members: &Members, now: u64, next: Epoch) -> Slices {
    let mut members = members.clone();
    for member in members.values_mut() {
        if next.generation > 1 && member.reported.is_none_or(|epoch| epoch.generation < next.generation) {
            member.reported = Some(Epoch { generation: next.generation, counter: 0 });
        }
    }
    slices::plan(slices, &members, now, next)
}

/// Of every order of events.
const DEPTH: usize = 6;
const WALKS: u64 = 400;
const STEPS: usize = 300;
