//! Why a command did not do what it was asked, and the exit code that says so.

use tonic::{Code, Status};

/// What ends a command early.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The command line asks for nothing that can be done.
    #[error("{0}")]
    Usage(String),
    /// No replica could be reached.
    #[error("{0}")]
    Unreachable(String),
    /// A replica refused.
    #[error("{0}")]
    Refused(String),
    /// Something on this machine: a file, the terminal.
    #[error("{0}")]
    Local(String),
    /// It began and did not come to its end: a roll-out that stopped, a drain that nobody waits for any more.
    #[error("{0}")]
    Incomplete(String),
}

impl Fault {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable(_) | Self::Refused(_) | Self::Local(_) => 1,
            Self::Usage(_) => 2,
            Self::Incomplete(_) => 3,
        }
    }

    /// What a replica answered instead of an answer.
    #[must_use]
    pub fn refused(status: &Status) -> Self {
        let said = one_line(status.message());
        let said = if said.is_empty() { status.code().description().to_owned() } else { said };
        Self::Refused(match status.code() {
            Code::PermissionDenied => format!("not allowed: {said}"),
            Code::Unauthenticated => {
                format!(
                    "the replica does not accept this certificate: {said}; give --identity DIR, or --cert and --key"
                )
            }
            Code::Unimplemented => {
                format!("the replica does not know this call: {said}; is it older than this command?")
            }
            _ => said,
        })
    }

    /// A file that cannot be read or written.
    #[must_use]
    pub fn file(path: &std::path::Path, what: &str, error: &std::io::Error) -> Self {
        Self::Local(format!("{}: cannot be {what}: {error}", path.display()))
    }
}

/// Errors are one line.
fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_and_names_the_role_that_the_replica_names() {
        let status = Status::new(Code::PermissionDenied, "SetDrain needs the role operator\nyou are viewer");
        let fault = Fault::refused(&status);
        assert_eq!(fault.to_string(), "not allowed: SetDrain needs the role operator; you are viewer");
        assert_eq!(fault.exit_code(), 1);
    }

    #[test]
    fn a_refusal_without_words_says_its_code() {
        assert_eq!(Fault::refused(&Status::new(Code::Internal, "")).to_string(), "Internal error");
    }
}
