//! The embedded store: the suite, its file, and what a crash leaves.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use redb::{Database, TableDefinition};
use tempfile::TempDir;
use trunkline_control_plane::store::{
    AnyStore, Embedded, Expected, FILE_NAME, OpenError, Revision, Store, StoreError,
};

use crate::harness::{Harness, change, checked, gone, put, to, to_with, told, value};
use crate::suite::run_suite;

run_suite!(EmbeddedHarness);

/// The embedded store in a directory of its own, with a history that is soon full.
pub struct EmbeddedHarness {
    store: AnyStore,
    _directory: TempDir,
}

impl Harness for EmbeddedHarness {
    async fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open_with_history(directory.path(), HISTORY).unwrap();
        Some(Self { store: store.into(), _directory: directory })
    }

    fn store(&self) -> &AnyStore {
        &self.store
    }

    async fn compact(&self) {
        for _ in 0..HISTORY {
            put(&self.store, "compaction", "").await;
        }
    }
}

const HISTORY: usize = 100;

#[tokio::test]
async fn entries_and_revisions_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    put(&store, "a", "1").await;
    store.commit(change(vec![gone("a")])).await.unwrap();
    let second = put(&store, "a", "2").await;
    drop(store);
    let store = Embedded::open(directory.path()).unwrap();
    let entry = store.get("a").await.unwrap().unwrap();
    assert_eq!((entry.value, entry.revision), (b"2".to_vec(), second));
    assert!(put(&store, "b", "").await > second);
}

#[tokio::test]
async fn leases_end_with_the_process_that_held_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let lease = store.grant(Duration::from_secs(3_600)).await.unwrap();
    let last = store.commit(change(vec![to_with("leader", lease), to("kept", "1")])).await.unwrap();
    drop(store);
    let store = Embedded::open(directory.path()).unwrap();
    assert!(value(&store, "leader").await.is_none());
    assert!(value(&store, "kept").await.is_some());
    assert!(store.list("").await.unwrap().revision > last, "their going is a change");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseEnded));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    store.commit(change(vec![to_with("leased", lease)])).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    store.keep_alive(lease).await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    assert!(value(&store, "leased").await.is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(store.commit(change(vec![to_with("late", lease)])).await, Err(StoreError::LeaseEnded));
}

#[tokio::test]
async fn a_watch_ends_when_the_store_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let mut watch = store.watch("", Revision::default()).await.unwrap();
    drop(store);
    assert!(matches!(told(&mut watch).await, Err(StoreError::Failed(_))));
}

#[tokio::test]
async fn a_file_of_version_0_1_0_opens_unchanged() {
    const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
    const REVISION: TableDefinition<'_, (), u64> = TableDefinition::new("revision");
    let directory = tempfile::tempdir().unwrap();
    let database = Database::create(directory.path().join(FILE_NAME)).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(ENTRIES).unwrap().insert("turn-key/1", (6, b"key".as_slice())).unwrap();
    writing.open_table(REVISION).unwrap().insert((), 7).unwrap();
    writing.commit().unwrap();
    drop(database);
    let store = Embedded::open(directory.path()).unwrap();
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.revision, Revision(7));
    assert_eq!((listing.entries[0].key.as_str(), listing.entries[0].revision), ("turn-key/1", Revision(6)));
    let taken = checked("turn-key/1", Expected::At(Revision(6)), vec![to("turn-key/1", "sealed")]);
    assert_eq!(store.commit(taken).await.unwrap(), Revision(8));
}

#[tokio::test]
async fn an_older_copy_of_the_file_is_another_history() {
    let directory = tempfile::tempdir().unwrap();
    let (file, copy) = (directory.path().join(FILE_NAME), directory.path().join("copy"));
    let store = Embedded::open(directory.path()).unwrap();
    put(&store, "k", "old").await;
    drop(store);
    std::fs::copy(&file, &copy).unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let newer = put(&store, "k", "new").await;
    drop(store);
    std::fs::rename(&copy, &file).unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    assert_eq!(value(&store, "k").await.unwrap(), "old");
    assert!(matches!(store.watch("", newer).await, Err(StoreError::Compacted)));
    let listing = store.list("").await.unwrap();
    let mut watch = store.watch("", listing.revision).await.unwrap();
    put(&store, "k", "other").await;
    assert_eq!(told(&mut watch).await.unwrap(), ["k=other"]);
}

#[test]
fn a_second_process_is_told_that_the_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Embedded::open(directory.path()).unwrap();
    let error = Embedded::open(directory.path()).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn only_the_owner_may_read_it() {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("deep/data");
    drop(Embedded::open(&directory).unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join(FILE_NAME))), (0o700, 0o600));
}

#[test]
fn what_is_no_store_and_no_directory_is_refused_in_one_line() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(matches!(Embedded::open(&file), Err(OpenError::Directory { .. })));
    let text = "this is not a database, but long enough to be read as one";
    std::fs::write(outer.path().join(FILE_NAME), text).unwrap();
    let error = Embedded::open(outer.path()).err().unwrap();
    assert!(matches!(error, OpenError::File { .. }) && !error.to_string().contains('\n'), "{error}");
}

/// Kills a writing process with SIGKILL again and again. Each time every acknowledged commit is there, and of the one
/// that it was at either everything or nothing.
#[tokio::test]
async fn a_killed_process_leaves_every_acknowledged_commit_whole() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=CRASHES {
        let acknowledged = write_until_killed(directory.path(), 1 + round * 7 % 23);
        let store = Embedded::open(directory.path()).unwrap();
        let first = value(&store, KEYS[0]).await.unwrap();
        let number: u64 = first.trim_start_matches('x').parse().unwrap();
        assert!((acknowledged..=acknowledged + 1).contains(&number), "{acknowledged} and {number}");
        for key in KEYS {
            assert_eq!(value(&store, key).await.unwrap(), first, "a transaction is whole");
        }
        assert_eq!(value(&store, "odd").await.is_some(), number % 2 == 1);
    }
}

/// Runs [`the_process_that_is_killed`] and gives the last number that it said was committed.
fn write_until_killed(directory: &Path, commits: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::the_process_that_is_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let number = |line: String| line.strip_prefix("committed ")?.parse::<u64>().ok();
    let mut last = None;
    for _ in 0..commits {
        last = lines.by_ref().find_map(number);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines.filter_map(number).last().or(last).unwrap()
}

#[tokio::test]
async fn the_process_that_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let store = Embedded::open(Path::new(&directory)).unwrap();
    let before = value(&store, KEYS[0]).await.unwrap_or_else(|| "0".to_owned());
    let mut number: u64 = before.trim_start_matches('x').parse().unwrap();
    println!();
    loop {
        number += 1;
        // Large, so that most of the time it is writing.
        let text = format!("{}{number}", "x".repeat(50_000));
        let mut changes: Vec<_> = KEYS.iter().map(|key| to(key, text.as_str())).collect();
        changes.push(if number % 2 == 1 { to("odd", "") } else { gone("odd") });
        store.commit(change(changes)).await.unwrap();
        println!("committed {number}");
    }
}

const DIRECTORY: &str = "TRUNKLINE_TEST_STORE";
const CRASHES: u64 = 25;
const KEYS: [&str; 3] = ["first", "m/second", "third"];
