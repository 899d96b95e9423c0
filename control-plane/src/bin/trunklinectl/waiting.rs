//! Waiting for something that the fleet does by itself, with a line that shows how far it is. Ctrl-C ends the waiting,
//! and nothing else.

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::fault::Fault;
use crate::output::Output;

/// A line of progress on standard error: rewritten on a terminal, a new line each time it changes elsewhere.
pub struct Progress {
    output: Output,
    is_terminal: bool,
    shown: String,
}

impl Progress {
    /// Nothing is shown yet; to programs nothing at all.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self { output, is_terminal: std::io::stderr().is_terminal(), shown: String::new() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, text: String) {
        if self.output == Output::Json || self.shown == text {
            return;
        }
        if self.is_terminal {
            eprint!("\r\x1b[K{text}");
            // Nobody can be told that standard error is gone.
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{text}");
        }
        self.shown = text;
    }

    /// The last line stays.
    pub fn end(&mut self) {
        if self.is_terminal && !self.shown.is_empty() && self.output == Output::Table {
            eprintln!();
        }
        self.shown.clear();
    }
}

/// Waits for `work`, until somebody presses Ctrl-C or sends SIGTERM: then `goes_on` says what goes on without this.
///
/// # Errors
/// What `work` fails with, or that nobody waits any more.
pub async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Fault>>,
    goes_on: &str,
) -> Result<T, Fault> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Fault::Local(format!("signals: {error}")))?;
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Fault::Incomplete(format!("stopped waiting: {goes_on}"))),
        _ = terminate.recv() => Err(Fault::Incomplete(format!("stopped waiting: {goes_on}"))),
    }
}

/// Between two looks at how far it is.
pub const LOOK: Duration = Duration::from_millis(500);
