//! One file of the journal: records, each with its length and its checksum in front.
//!
//! The file's name says which record is its first, so that even an empty file tells where the numbers go on.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use prost::Message;
use trunkline_proto::node::v1::UsageRecord;

/// Which record: ordered by epoch, then sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub epoch: u64,
    pub sequence: u64,
}

impl Name {
    /// Of a record.
    pub const fn of(record: &UsageRecord) -> Self {
        Self { epoch: record.usage_epoch, sequence: record.sequence }
    }

    /// Of the record behind it.
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, sequence: self.sequence.saturating_add(1) }
    }

    /// Of the first record of the file that is called so; `None` for other files.
    pub fn parse(file: &OsStr) -> Option<Self> {
        let (epoch, sequence) = file.to_str()?.strip_suffix(SUFFIX)?.split_once('-')?;
        Some(Self { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? })
    }

    fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{:020}-{:020}{SUFFIX}", self.epoch, self.sequence))
    }
}

/// Whether something was missing at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Nothing,
    Tail,
}

/// A file of the journal.
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    /// Its first record, there already or not.
    pub first: Name,
    records: u64,
    /// Up to here it is whole.
    pub bytes: u64,
}

impl Segment {
    /// A new file.
    pub fn create(directory: &Path, first: Name) -> io::Result<Self> {
        if !directory.is_dir() {
            fs::create_dir_all(directory)?;
        }
        let path = first.path(directory);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        File::open(directory)?.sync_all()?;
        Ok(Self { path, file, first, records: 0, bytes: 0 })
    }

    /// A file that is there; what is behind its last whole record is cut off.
    pub fn open(directory: &Path, first: Name) -> io::Result<(Self, Cut)> {
        let path = first.path(directory);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        let mut segment = Self { path, file, first, records: 0, bytes: 0 };
        while let Some((record, behind)) = read(&segment.file, segment.bytes, length) {
            if Name::of(&record) != segment.next() {
                break;
            }
            segment.records = segment.records.saturating_add(1);
            segment.bytes = behind;
        }
        let cut = if segment.bytes == length { Cut::Nothing } else { Cut::Tail };
        if cut == Cut::Tail {
            tracing::info!(
                bytes = length - segment.bytes,
                "a record of the usage journal was not whole: cut off"
            );
            // It is never read again, on a full or read-only disk either.
            let _ = segment.file.set_len(segment.bytes);
        }
        Ok((segment, cut))
    }

    /// The record that is written next.
    pub const fn next(&self) -> Name {
        Name { epoch: self.first.epoch, sequence: self.first.sequence.saturating_add(self.records) }
    }

    /// Writes records and syncs them; all or, as far as a reader can tell, none.
    pub fn append(&mut self, records: &[UsageRecord]) -> io::Result<()> {
        let mut bytes = vec![];
        for record in records {
            let payload = record.encode_to_vec();
            let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&payload).to_be_bytes());
            bytes.extend_from_slice(&payload);
        }
        let written = self.file.write_all_at(&bytes, self.bytes).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.records = self.records.saturating_add(records.len() as u64);
        Ok(())
    }

    /// Deletes the file. One that stays is sent once more after a restart, and counted once all the same.
    pub fn remove(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "a counted file of the usage journal stays");
        }
    }
}

/// Reads a segment from its beginning.
pub(super) struct Reader {
    file: File,
    pub first: Name,
    at: u64,
}

impl Reader {
    /// From the first record on.
    pub fn open(segment: &Segment) -> io::Result<Self> {
        Ok(Self { file: File::open(&segment.path)?, first: segment.first, at: 0 })
    }

    /// The next of its records; the file is whole up to `bytes`.
    pub fn next(&mut self, bytes: u64) -> Option<UsageRecord> {
        let (record, behind) = read(&self.file, self.at, bytes)?;
        self.at = behind;
        Some(record)
    }
}

/// The record at `at` and where it ends; `None` where no whole one is.
fn read(file: &File, at: u64, end: u64) -> Option<(UsageRecord, u64)> {
    let mut head = [0; HEAD_BYTES];
    let body = at.checked_add(HEAD_BYTES as u64).filter(|body| *body <= end)?;
    file.read_exact_at(&mut head, at).ok()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let behind = body.checked_add(length.into()).filter(|behind| *behind <= end)?;
    let mut payload = vec![0; usize::try_from(length).ok().filter(|length| *length <= RECORD_BYTES_MAX)?];
    file.read_exact_at(&mut payload, body).ok()?;
    let is_whole = crc32fast::hash(&payload) == u32::from_be_bytes([c0, c1, c2, c3]);
    let record = UsageRecord::decode(&payload[..]).ok().filter(|_| is_whole)?;
    Some((record, behind))
}

const SUFFIX: &str = ".usage";
/// Length and CRC-32 of the record, big-endian.
const HEAD_BYTES: usize = 8;
/// 100 entries with the longest names stay below.
const RECORD_BYTES_MAX: usize = 256 * 1024;
