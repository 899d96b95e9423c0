//! The servers that are connected to this replica, and questions to them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use trunkline_proto::node::v1::question::Question as Asked;
use trunkline_proto::node::v1::{Answer, Question};
use trunkline_wire::NodeId;

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The server is not connected to this replica.
    #[error("the server is not connected to this replica")]
    NotHere,
    /// It did not answer in time.
    #[error("the server did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Silent,
}

/// The sessions of a replica.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: Mutex<HashMap<NodeId, Open>>,
    next: AtomicU64,
}

struct Open {
    number: u64,
    incarnation: u64,
    questions: mpsc::Sender<Question>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    /// Ends the session.
    replaced: Option<oneshot::Sender<()>>,
}

/// A session in the list; it leaves when it is dropped.
pub struct Registered {
    sessions: Sessions,
    node: NodeId,
    number: u64,
    /// What is asked of the server.
    pub questions: mpsc::Receiver<Question>,
    /// Resolves when a newer session of the same server took its place.
    pub replaced: oneshot::Receiver<()>,
}

impl Sessions {
    /// Adds a session. One of an older incarnation of the same server ends; `None` when there is one of a newer.
    #[must_use]
    pub fn register(&self, node: NodeId, incarnation: u64) -> Option<Registered> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (end, replaced) = oneshot::channel();
        let mut open = self.open();
        if open.get(&node).is_some_and(|other| other.incarnation > incarnation) {
            return None;
        }
        let session = Open { number, incarnation, questions, waiting: HashMap::new(), replaced: Some(end) };
        if let Some(mut older) = open.insert(node, session) {
            older.replaced.take().map(|end| end.send(()));
        }
        drop(open);
        Some(Registered { sessions: self.clone(), node, number, questions: asked, replaced })
    }

    /// Servers that are connected.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.open().keys().copied().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.open().len()
    }

    /// Asks a server.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(&self, node: NodeId, question: Asked) -> Result<Answer, Unanswered> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let questions = {
            let mut open = self.open();
            let session = open.get_mut(&node).ok_or(Unanswered::NotHere)?;
            session.waiting.retain(|_, waiting| !waiting.is_closed());
            session.waiting.insert(id, answer);
            session.questions.clone()
        };
        questions.try_send(Question { id, question: Some(question) }).map_err(|_| Unanswered::Silent)?;
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(Unanswered::Silent),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<NodeId, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    /// Hands an answer to whoever asked.
    pub fn answered(&self, answer: Answer) {
        let waiting = {
            let mut open = self.sessions.open();
            open.get_mut(&self.node)
                .filter(|session| session.number == self.number)
                .and_then(|session| session.waiting.remove(&answer.id))
        };
        if let Some(waiting) = waiting {
            // Whoever asked may have gone.
            drop(waiting.send(answer));
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = self.sessions.open();
        if open.get(&self.node).is_some_and(|session| session.number == self.number) {
            open.remove(&self.node);
        }
    }
}

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Questions to one server that wait for being sent.
const QUESTIONS_MAX: usize = 64;
