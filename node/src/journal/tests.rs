//! The journal over crashes, refusing disks and acknowledgements.

use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_700_000_000;

fn delta(user: &str, bytes: u64) -> Delta {
    Delta { key_id: "k".into(), user: user.into(), bytes_to_peer: bytes, ..Delta::default() }
}

fn open(directory: &tempfile::TempDir) -> Journal {
    Journal::open(&directory.path().join("usage"), NOW * 1_000)
}

fn second(journal: &mut Journal, second: u64) {
    journal.add([delta("a", second), delta("b", 1)], NOW + second);
    journal.write(NOW + second);
}

/// Names and bytes of everything that would be sent.
fn sent(journal: &mut Journal) -> Vec<(Name, u64)> {
    journal.rewind();
    std::iter::from_fn(|| journal.next_record())
        .map(|record| (Name::of(&record), record.entries.iter().map(|entry| entry.bytes_to_peer).sum()))
        .collect()
}

fn only_file(directory: &tempfile::TempDir) -> PathBuf {
    let mut files: Vec<_> =
        fs::read_dir(directory.path().join("usage")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn records_are_numbered_and_survive_a_restart_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    (1..=3).for_each(|index| second(&mut journal, index));
    let before = sent(&mut journal);
    assert_eq!(
        before.iter().map(|(name, bytes)| (name.sequence, *bytes)).collect::<Vec<_>>(),
        [(1, 2), (2, 3), (3, 4)]
    );
    drop(journal);
    let mut journal = open(&directory);
    assert_eq!(sent(&mut journal), before);
    second(&mut journal, 4);
    let after = sent(&mut journal);
    assert_eq!((after[3].0.epoch, after[3].0.sequence), (before[0].0.epoch, 4), "the same numbers go on");
}

#[test]
fn a_file_cut_at_any_byte_gives_its_whole_records_and_no_number_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    (1..=4).for_each(|index| second(&mut journal, index));
    let all = sent(&mut journal);
    drop(journal);
    let file = only_file(&directory);
    let bytes = fs::read(&file).unwrap();
    for length in 0..bytes.len() {
        for path in fs::read_dir(directory.path().join("usage")).unwrap() {
            fs::remove_file(path.unwrap().path()).unwrap();
        }
        fs::write(&file, &bytes[..length]).unwrap();
        let mut journal = open(&directory);
        let whole = sent(&mut journal);
        assert_eq!(whole, all[..whole.len()], "{length}");
        second(&mut journal, 9);
        let is_torn = all.len() > whole.len() && !is_end_of_a_record(&bytes, length);
        let (name, _) = *sent(&mut journal).last().unwrap();
        assert_eq!(name.epoch > all[0].0.epoch, is_torn, "{length}");
        assert_eq!(name.sequence, if is_torn { 1 } else { whole.len() as u64 + 1 }, "{length}");
    }
}

fn is_end_of_a_record(bytes: &[u8], at: usize) -> bool {
    let mut end = 0;
    while end < at {
        end += 8 + u32::from_be_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
    }
    end == at
}

#[test]
fn damage_in_the_middle_is_not_sent_and_neither_is_what_would_leave_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    (1..=4).for_each(|index| second(&mut journal, index));
    let all = sent(&mut journal);
    drop(journal);
    let file = only_file(&directory);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2 + 4;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let mut journal = open(&directory);
    let left = sent(&mut journal);
    assert!(left.len() < all.len() && left == all[..left.len()]);
    second(&mut journal, 5);
    let (name, _) = *sent(&mut journal).last().unwrap();
    assert!(name.epoch > all[0].0.epoch && name.sequence == 1);
}

#[test]
fn what_is_acknowledged_goes_and_the_numbers_go_on_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    let users: Vec<Delta> = (0..2_000).map(|user| delta(&format!("{user:0300}"), 1)).collect();
    journal.add(users, NOW);
    journal.write(NOW);
    let all = sent(&mut journal);
    assert_eq!((all.len(), all.iter().map(|(_, bytes)| bytes).sum::<u64>()), (20, 2_000));
    let (epoch, last) = (all[0].0.epoch, all[19].0.sequence);
    journal.acknowledge(epoch, last);
    assert_eq!(sent(&mut journal), []);
    assert_eq!(fs::metadata(only_file(&directory)).unwrap().len(), 0, "an empty file keeps the numbers");
    drop(journal);
    let mut journal = open(&directory);
    second(&mut journal, 1);
    assert_eq!(sent(&mut journal)[0].0, Name { epoch, sequence: last + 1 });
    journal.acknowledge(epoch, last);
    assert_eq!(sent(&mut journal).len(), 1, "an old acknowledgement takes nothing back");
}

#[test]
fn a_disk_that_refuses_loses_nothing_once_it_takes_again() {
    let directory = tempfile::tempdir().unwrap();
    // A file where the directory should be refuses for root too.
    fs::write(directory.path().join("usage"), "").unwrap();
    let mut journal = open(&directory);
    (1..=3).for_each(|index| second(&mut journal, index));
    assert_eq!((journal.failing_since_unix_s(), sent(&mut journal).len()), (NOW + 1, 0));
    fs::remove_file(directory.path().join("usage")).unwrap();
    second(&mut journal, 4);
    assert_eq!(journal.failing_since_unix_s(), 0);
    let total: u64 = sent(&mut journal).iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(total, 1 + 2 + 3 + 4 + 4, "merged by user, and all there");
}

#[test]
fn a_large_journal_is_written_rarely_and_drops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    second(&mut journal, 1);
    // As if it were so large.
    journal.segments[0].bytes += COMFORTABLE_BYTES;
    (2..60).for_each(|index| second(&mut journal, index));
    assert_eq!(journal.next.sequence, 2, "nothing within a minute");
    second(&mut journal, 61);
    assert_eq!(journal.next.sequence, 3);
    let record = journal.next.sequence - 1;
    let last = std::iter::from_fn(|| journal.next_record()).find(|found| found.sequence == record);
    let bytes: u64 = last.unwrap().entries.iter().map(|entry| entry.bytes_to_peer).sum();
    assert_eq!(bytes, (2..60).sum::<u64>() + 61 + 59);
}

#[test]
fn more_users_than_memory_holds_still_count_for_their_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut journal = open(&directory);
    journal.add((0..100_010).map(|user| delta(&user.to_string(), 1)), NOW);
    journal.write(NOW);
    let records: Vec<_> = std::iter::from_fn(|| journal.next_record()).collect();
    let entries = records.iter().flat_map(|record| &record.entries);
    assert_eq!(entries.clone().map(|entry| entry.bytes_to_peer).sum::<u64>(), 100_010);
    assert_eq!(
        entries.filter(|entry| entry.user.is_empty()).map(|entry| entry.bytes_to_peer).sum::<u64>(),
        10
    );
}

/// What happens to a journal.
#[derive(Clone, Debug)]
enum Step {
    Second(u64),
    /// Some records are sent, and so many of them acknowledged.
    Send(usize, usize),
    /// The process is killed: what was not written is gone.
    Kill,
    /// Killed while it wrote: so many bytes of the next record are there.
    Torn(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..1_000_u64).prop_map(Step::Second),
        3 => (0..6_usize, 0..6_usize).prop_map(|(sent, counted)| Step::Send(sent, counted.min(sent))),
        1 => Just(Step::Kill),
        1 => (1..8_usize).prop_map(Step::Torn),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_written_record_is_counted_once_and_in_order(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = open(&directory);
        // What a control plane does: in order, without gaps, an old one is acknowledged again.
        let (mut cursor, mut counted, mut written) = (Name { epoch: 0, sequence: 0 }, 0, 0);
        let mut count = |journal: &mut Journal, sent: usize, acknowledged: usize| {
            journal.rewind();
            for index in 0..sent {
                let Some(record) = journal.next_record() else { break };
                let name = Name::of(&record);
                if name > cursor {
                    assert!(name == cursor.next() || (name.epoch > cursor.epoch && name.sequence == 1), "a gap");
                    cursor = name;
                    counted += record.entries.iter().map(|entry| entry.bytes_to_peer).sum::<u64>();
                }
                if index < acknowledged {
                    journal.acknowledge(name.epoch, name.sequence);
                }
            }
            counted
        };
        for (index, step) in (0..).zip(steps) {
            match step {
                Step::Second(bytes) => {
                    journal.add([delta("a", bytes)], NOW + index);
                    journal.write(NOW + index);
                    written += bytes;
                }
                Step::Send(sent, acknowledged) => {
                    count(&mut journal, sent, acknowledged);
                }
                Step::Kill => {
                    drop(journal);
                    journal = open(&directory);
                }
                Step::Torn(bytes) => {
                    if let Some(last) = journal.segments.back() {
                        let path = last.first;
                        let path = directory.path().join("usage").join(format!("{:020}-{:020}.usage", path.epoch, path.sequence));
                        let mut file = fs::read(&path).unwrap();
                        file.extend(std::iter::repeat_n(1, bytes));
                        fs::write(&path, file).unwrap();
                    }
                    drop(journal);
                    journal = open(&directory);
                }
            }
        }
        prop_assert_eq!(count(&mut journal, usize::MAX, usize::MAX), written);
    }
}
