//! The usage journal: what users relayed, on disk every second, until the control plane has counted it.
//!
//! Records are numbered without gaps within a usage epoch and are sent in order, from files alone: what was not synced
//! is not sent. A process that is killed loses at most what it relayed since the last write. A file whose tail was cut
//! is continued under a new epoch, so that no number ever stands for two records.
//!
//! Nothing here touches the data path. When the disk refuses, what was relayed stays in memory, merged by user, and
//! `failing_since_unix_s` says so. A journal beyond [`COMFORTABLE_BYTES`] drops nothing either: its writes become rare, so
//! that records that are not written yet merge into coarser ones.

mod pending;
mod segment;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::{fs, io};

use trunkline_proto::node::v1::UsageRecord;

pub use pending::Delta;
use pending::Pending;
use segment::{Cut, Name, Reader, Segment};

/// A server's usage that is not counted yet.
pub struct Journal {
    directory: PathBuf,
    /// In the order of their records; the last is written to unless the disk refused to make it.
    segments: VecDeque<Segment>,
    /// What the next record is called.
    next: Name,
    /// Everything up to here is counted.
    acknowledged: Option<Name>,
    pending: Pending,
    reader: Option<Reader>,
    written_unix_s: u64,
    failing_since_unix_s: u64,
}

impl Journal {
    /// Opens the journal of a directory, which need not exist. It always opens: what cannot be read is left out, and
    /// said in the log.
    #[must_use]
    pub fn open(directory: &Path, now_unix_ms: u64) -> Self {
        let (segments, is_whole) = found(directory).unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "the usage journal cannot be read; what was not counted yet is not sent");
            }
            (VecDeque::new(), false)
        });
        let next = match segments.back() {
            Some(last) if is_whole => last.next(),
            last => Name {
                epoch: now_unix_ms.max(last.map_or(0, |last| last.next().epoch.saturating_add(1))),
                sequence: 1,
            },
        };
        Self {
            directory: directory.to_owned(),
            segments,
            next,
            acknowledged: None,
            pending: Pending::default(),
            reader: None,
            written_unix_s: 0,
            failing_since_unix_s: 0,
        }
    }

    /// Adds what was relayed since the last time, in memory.
    pub fn add(&mut self, deltas: impl IntoIterator<Item = Delta>, now_unix_s: u64) {
        deltas.into_iter().for_each(|delta| self.pending.add(delta, now_unix_s));
    }

    /// Writes and syncs what was added, once a second; more rarely where the journal has grown large.
    pub fn write(&mut self, now_unix_s: u64) {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        let pause_s = PAUSES.iter().find(|(from, _)| bytes >= *from).map_or(0, |(_, pause_s)| *pause_s);
        if self.pending.is_empty() || now_unix_s < self.written_unix_s.saturating_add(pause_s) {
            return;
        }
        match self.append() {
            Ok(()) => {
                self.written_unix_s = now_unix_s;
                self.failing_since_unix_s = 0;
            }
            Err(error) => {
                if self.failing_since_unix_s == 0 {
                    tracing::warn!(%error, "usage cannot be journalled; it is kept in memory until the disk takes it");
                    self.failing_since_unix_s = now_unix_s;
                }
            }
        }
    }

    /// Since when the disk refuses; 0 while it does not.
    #[must_use]
    pub const fn failing_since_unix_s(&self) -> u64 {
        self.failing_since_unix_s
    }

    /// The usage epoch of the record that is sent next.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let first = self.segments.iter().find(|segment| segment.next() > self.unacknowledged());
        first.map_or(self.next.epoch, |segment| segment.first.epoch)
    }

    /// From now on [`Journal::next_record`] begins with the oldest record that is not counted.
    pub fn rewind(&mut self) {
        self.reader = None;
    }

    /// The next record to send. `None` when all were given, or the disk does not give it now.
    pub fn next_record(&mut self) -> Option<UsageRecord> {
        loop {
            let reader = match self.reader.take() {
                Some(reader) => reader,
                None => Reader::open(self.segments.front()?).ok()?,
            };
            let reader = self.reader.insert(reader);
            let segment = self.segments.iter().find(|segment| segment.first == reader.first);
            // One that is counted meanwhile has gone.
            if let Some(record) = segment.and_then(|segment| reader.next(segment.bytes)) {
                if Name::of(&record) >= self.unacknowledged() {
                    return Some(record);
                }
                continue;
            }
            let first = reader.first;
            let following = self.segments.iter().find(|segment| segment.first > first)?;
            self.reader = Some(Reader::open(following).ok()?);
        }
    }

    /// Everything up to this record is counted: its files go.
    pub fn acknowledge(&mut self, usage_epoch: u64, sequence: u64) {
        let name = Name { epoch: usage_epoch, sequence };
        if self.acknowledged.is_some_and(|before| name <= before) {
            return;
        }
        self.acknowledged = Some(name);
        let from = self.unacknowledged();
        while self.segments.len() > 1 && self.segments.front().is_some_and(|first| first.next() <= from) {
            if let Some(counted) = self.segments.pop_front() {
                counted.remove();
            }
        }
        let last = self.segments.back();
        if last.is_some_and(|last| last.next() <= from && last.bytes >= SEGMENT_BYTES / 8) {
            // The empty successor keeps the numbers going over a restart.
            if self.begin_segment().is_ok() {
                self.segments.drain(..self.segments.len() - 1).for_each(Segment::remove);
            }
        }
    }

    fn unacknowledged(&self) -> Name {
        self.acknowledged.map_or(Name { epoch: 0, sequence: 0 }, Name::next)
    }

    fn append(&mut self) -> io::Result<()> {
        let is_fitting = |last: &Segment| last.next() == self.next && last.bytes < SEGMENT_BYTES;
        if !self.segments.back().is_some_and(is_fitting) {
            self.begin_segment()?;
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let records = self.pending.records(self.next);
        last.append(&records)?;
        self.next = last.next();
        self.pending.clear();
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.segments.push_back(Segment::create(&self.directory, self.next)?);
        Ok(())
    }
}

/// The segments of a directory in order, and whether the last one may be continued.
fn found(directory: &Path) -> io::Result<(VecDeque<Segment>, bool)> {
    let mut names = vec![];
    for entry in fs::read_dir(directory)? {
        names.extend(Name::parse(&entry?.file_name()));
    }
    names.sort_unstable();
    let mut segments: VecDeque<Segment> = VecDeque::new();
    let mut is_whole = true;
    for name in names {
        let follows = segments
            .back()
            .is_none_or(|before| name.epoch > before.first.epoch || (is_whole && name == before.next()));
        if !follows {
            // Numbers are missing before it: the control plane would refuse it for ever.
            tracing::error!(?name, "a file of the usage journal was damaged, and what follows it is lost");
            is_whole = false;
            continue;
        }
        let (segment, cut) = Segment::open(directory, name)?;
        is_whole = cut == Cut::Nothing;
        segments.push_back(segment);
    }
    Ok((segments, is_whole))
}

/// Up to here the journal is written every second.
pub const COMFORTABLE_BYTES: u64 = 64 * 1024 * 1024;
/// How long nothing is written from so many bytes on. At an hour, 100,000 users add 10 MiB with each write, and the
/// control plane has been away for days.
const PAUSES: [(u64, u64); 3] =
    [(4 * COMFORTABLE_BYTES, 86_400), (2 * COMFORTABLE_BYTES, 3_600), (COMFORTABLE_BYTES, 60)];
/// A file that is larger is followed by another one.
const SEGMENT_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests;
