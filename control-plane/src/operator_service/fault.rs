//! Why a call of an operator was not done. The message names the field, what is wrong with it, and what to do.

use tonic::{Code, Status};

use crate::sealing::SealingError;
use crate::store::StoreError;

/// Why a call was not done. Nothing was stored, unless it says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A field of the request is not what it may be.
    #[error("{field}: {problem}")]
    Malformed {
        /// As in the `.proto` file: `policy.peer_allow[3]`.
        field: String,
        /// What it is, what it may be, and what to do.
        problem: String,
    },
    /// The thing that a field names is not there.
    #[error("{field}: {problem}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// What is not there.
        problem: String,
    },
    /// It is there already.
    #[error("{field}: {problem}")]
    Exists {
        /// The field.
        field: &'static str,
        /// What is there.
        problem: String,
    },
    /// Not as things are; the text says what would have to be otherwise.
    #[error("{0}")]
    Unfit(String),
    /// A bound is reached.
    #[error("{0}")]
    Exhausted(String),
    /// Others changed the same things again and again.
    #[error("others keep changing the same things; send it again with the same idempotency key")]
    Contended,
    /// Somebody who is needed does not answer. What was done so far is done.
    #[error("{0}")]
    Silent(String),
    /// The connection proved no identity.
    #[error("{0}")]
    Nameless(String),
    /// A record or a random source is broken.
    #[error("{0}")]
    Broken(String),
}

impl Fault {
    /// A field that is not what it may be.
    pub fn malformed(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { field: field.into(), problem: problem.into() }
    }

    /// A field that names what is not there.
    pub fn unknown(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Unknown { field, problem: problem.into() }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Malformed { .. } => Code::InvalidArgument,
            Self::Unknown { .. } => Code::NotFound,
            Self::Exists { .. } => Code::AlreadyExists,
            Self::Unfit(_) => Code::FailedPrecondition,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::Contended => Code::Aborted,
            Self::Silent(_) => Code::Unavailable,
            Self::Nameless(_) => Code::Unauthenticated,
            Self::Broken(_) => Code::Internal,
        }
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        Self::new(fault.code(), fault.to_string())
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict | StoreError::Compacted | StoreError::LeaseEnded => Self::Contended,
            StoreError::TooLarge(_) => Self::Exhausted(error.to_string()),
            // Whether it was done is not known: the idempotency key makes asking again safe.
            StoreError::Failed(_) => {
                Self::Silent(format!("{error}; send it again with the same idempotency key"))
            }
        }
    }
}

impl From<SealingError> for Fault {
    fn from(error: SealingError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<getrandom::Error> for Fault {
    fn from(error: getrandom::Error) -> Self {
        Self::Broken(format!("the operating system has no random bytes: {error}"))
    }
}
