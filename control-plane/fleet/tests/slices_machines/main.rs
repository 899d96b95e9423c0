//! No port has two users whatever happens to machines, their disks and the store: a small world is explored to a depth,
//! larger ones are walked at random.

mod world;

use std::collections::{HashSet, VecDeque};

use crate::world::{Event, World};

/// Every order of events from `start` to `depth`, each state once; how many states there are.
fn explore(start: World, depth: usize) -> usize {
    let mut known = HashSet::from([start.clone()]);
    let mut open: VecDeque<(World, Vec<Event>)> = [(start, vec![])].into();
    while let Some((world, path)) = open.pop_front() {
        for event in world.events() {
            let mut next = world.clone();
            let happened = next.apply(event);
            let path: Vec<Event> = path.iter().copied().chain([event]).collect();
            if let Err(fault) = happened {
                panic!("{fault}, after {path:?}");
            }
            if path.len() < depth && !known.contains(&next) {
                known.insert(next.clone());
                open.push_back((next, path));
            }
        }
    }
    known.len()
}

/// Where exploring begins: both servers have what they need, one of them busy, and a snapshot may be taken.
fn settled(servers: u16, slices: u8, restores: u8) -> World {
    let mut world = World::new(servers, slices, restores);
    let everybody = |event: fn(u16) -> Event| (1..=servers).map(event);
    let round = || everybody(Event::Report).chain([Event::Plan]).chain(everybody(Event::Deliver));
    for event in round().chain(round()) {
        world.apply(event).unwrap();
    }
    assert!(world.has_an_owner());
    world
}

#[test]
fn two_servers_and_two_slices_to_a_depth_of_six() {
    println!("{} states", explore(World::new(2, 2, 1), 6));
    println!("{} states from a settled fleet", explore(settled(2, 2, 1), 6));
}

#[test]
fn two_servers_and_three_slices_to_a_depth_of_six() {
    println!("{} states from a settled fleet", explore(settled(2, 3, 1), 6));
}

/// What must be gone through before a restored store can do harm, one event at a time: exploring goes on from each
/// place on the way.
#[test]
fn around_a_restore_every_order_of_four_events_from_each_place() {
    let mut world = settled(2, 2, 1);
    let mut states = 0;
    let script = [
        Event::Snapshot,
        Event::Drain(1),
        Event::Plan,
        Event::Deliver(1),
        Event::Report(1),
        Event::Plan,
        Event::Rest,
        Event::Plan,
        Event::Busy(2),
        Event::Report(2),
        Event::Plan,
        Event::Deliver(2),
        Event::Allocate(2),
        Event::CutOff(2),
        Event::Restore,
        Event::Plan,
        Event::Deliver(1),
        Event::Report(1),
        Event::Plan,
        Event::Rest,
        Event::Plan,
        Event::Deliver(1),
    ];
    for event in script {
        world.apply(event).unwrap();
        states += explore(world.clone(), 4);
    }
    println!("{states} states");
}

/// A linear congruential generator (Knuth's MMIX constants): the same walk for the same seed.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Events are drawn so that configurations flow and plans are made more often than machines are lost.
fn walk(mut world: World, seed: u64, steps: usize) {
    let mut path = vec![];
    let mut random = Seed(seed);
    for _ in 0..steps {
        let events = world.events();
        let is_rare = |event: &Event| {
            matches!(event, Event::ConfirmGone(_) | Event::Restore | Event::Crash(_) | Event::CutOff(_))
        };
        let mut event = events[random.below(events.len())];
        if is_rare(&event) && random.below(4) != 0 {
            event = events[random.below(events.len())];
        }
        let event = if random.below(4) == 0 { Event::Plan } else { event };
        path.push(event);
        if let Err(fault) = world.apply(event) {
            panic!(
                "seed {seed}: {fault}, after {} events, the last {:?}",
                path.len(),
                &path[path.len().saturating_sub(60)..]
            );
        }
    }
}

#[test]
fn long_random_walks_of_four_servers_and_five_slices() {
    let (walks, steps) = (1_000, 400);
    for seed in 0..walks {
        walk(World::new(4, 5, 3), seed, steps);
        walk(World::new(4, 5, 3).with_lagging_replicas(), seed, steps);
    }
    println!("twice {walks} walks of {steps} events");
}
