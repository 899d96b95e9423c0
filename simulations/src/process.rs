//! Child processes of a simulation: bounded waits, a captured log, and no process left behind.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running program whose output is captured line by line. It leads a process group of its own, and the
/// whole group is killed when the program has ended or the value is dropped.
#[derive(Debug)]
pub struct Running {
    label: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// Which stream of the program a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

#[derive(Debug, Default)]
struct Output {
    captured: Mutex<Captured>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Captured {
    lines: Vec<(Stream, String)>,
    dropped: usize,
    closed_streams: usize,
}

impl Running {
    /// Starts `command`; `label` names it in logs and errors.
    pub fn start(label: &str, command: &mut Command) -> io::Result<Self> {
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = spawned.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{label}: cannot start {:?}: {error}", command.get_program()),
            )
        })?;
        let output = Arc::new(Output::default());
        let mut readers = Vec::with_capacity(STREAMS);
        if let Some(stdout) = child.stdout.take() {
            readers.push(capture(stdout, Stream::Out, Arc::clone(&output)));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(capture(stderr, Stream::Err, Arc::clone(&output)));
        }
        Ok(Self { label: label.to_owned(), child, status: None, output, readers })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of standard output equals `line` once trimmed.
    pub fn wait_for_line(&self, line: &str, timeout: Duration) -> Result<(), String> {
        self.wait_for(&format!("the line {line:?}"), timeout, |candidate| {
            (candidate.trim() == line).then_some(())
        })
    }

    /// Waits until `recognise` accepts a line of standard output, from the first line on, and returns what
    /// it made of it. `what` names the expectation in the error.
    pub fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut recognise: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + timeout;
        let mut seen = 0;
        let mut captured = self.output.lock();
        loop {
            let fresh = captured.lines.iter().skip(seen);
            let found =
                fresh.filter(|(stream, _)| *stream == Stream::Out).find_map(|(_, line)| recognise(line));
            if let Some(found) = found {
                return Ok(found);
            }
            seen = captured.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = captured.closed_streams == STREAMS;
            if ended || left.is_zero() {
                drop(captured);
                let cause = if ended { "ended without" } else { "did not in time print" };
                return Err(format!("{} {cause} {what} (waited {timeout:?})\n{}", self.label, self.log()));
            }
            let woken = self.output.changed.wait_timeout(captured, left);
            captured = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the program has ended by itself.
    pub fn wait_for_exit(&mut self, timeout: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.status_now().map_err(|error| format!("{}: {error}", self.label))? {
                self.join_readers();
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} still runs after {timeout:?}\n{}", self.label, self.log()));
            }
            std::thread::sleep(EXIT_POLL);
        }
    }

    /// The exit status, or `None` while the program runs.
    pub fn status_now(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.kill_group();
            }
        }
        Ok(self.status)
    }

    /// Asks the program (not its group) to end: SIGTERM.
    pub fn terminate(&mut self) -> io::Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Sends a signal to the program, which must still run.
    pub fn signal(&mut self, signal: libc::c_int) -> io::Result<()> {
        if let Some(status) = self.status_now()? {
            return Err(io::Error::other(format!("{} has ended already: {}", self.label, outcome(status))));
        }
        // SAFETY: kill touches no memory; the process is our child and not yet reaped, so the id is still
        // its own.
        if unsafe { libc::kill(self.child.id() as libc::pid_t, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// All lines captured of one stream so far.
    pub fn lines(&self, wanted: Stream) -> Vec<String> {
        let captured = self.output.lock();
        captured.lines.iter().filter(|(stream, _)| *stream == wanted).map(|(_, line)| line.clone()).collect()
    }

    /// Everything captured so far, for a person who reads why a test failed.
    pub fn log(&self) -> String {
        let captured = self.output.lock();
        let mut text = format!("--- {} (pid {}) ---\n", self.label, self.child.id());
        if captured.dropped > 0 {
            text.push_str(&format!("({} later lines left out)\n", captured.dropped));
        }
        for (stream, line) in &captured.lines {
            text.push_str(if *stream == Stream::Out { "  " } else { "! " });
            text.push_str(line);
            text.push('\n');
        }
        if let Some(status) = self.status {
            text.push_str(&format!("--- {} ---\n", outcome(status)));
        }
        text
    }

    fn join_readers(&mut self) {
        // A grandchild may hold the pipes open: then the lines so far must do.
        let deadline = Instant::now() + READER_GRACE;
        while Instant::now() < deadline && !self.readers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(EXIT_POLL);
        }
    }

    fn kill_group(&self) {
        // SAFETY: kill touches no memory. The group's id is the child's process id: it is still the child's
        // own, or was freed a moment ago, and the kernel hands out process ids in turn.
        unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill_group();
            self.status = self.child.wait().ok();
        }
        self.join_readers();
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Captured> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn capture(pipe: impl Read + Send + 'static, stream: Stream, output: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut captured = output.lock();
            if captured.lines.len() < LINES_MAX {
                captured.lines.push((stream, text));
            } else {
                captured.dropped += 1;
            }
            output.changed.notify_all();
        }
        output.lock().closed_streams += 1;
        output.changed.notify_all();
    })
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

const STREAMS: usize = 2;
/// A program that prints more than this has gone astray; what it printed first says why.
const LINES_MAX: usize = 100_000;
const EXIT_POLL: Duration = Duration::from_millis(10);
const READER_GRACE: Duration = Duration::from_secs(1);
