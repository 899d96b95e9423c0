//! A commit is done once or not at all, although answers get lost.
//!
//! The first attempt demands the transaction's checks and that the [`Mark`] is untouched, and puts the commit's number
//! there. When no answer comes it is sent again, to the next member. An attempt that was done after all has changed
//! the mark, so no later one can be done, and the later one reads there that it was. A later attempt that finds the
//! checks unmet writes that verdict into the mark, so that an earlier one which still wanders through the network
//! cannot be done afterwards.

use etcd_client::{Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::super::{Change, Expected, Revision, StoreError, Transaction};
use super::Shared;
use super::keys::{Keys, etcd_revision, revision};
use super::marks::{Mark, random};
use super::members::{Client, Fault, Patience};

/// Does a transaction.
pub(super) async fn commit(etcd: &Shared, transaction: &Transaction) -> Result<Revision, StoreError> {
    let mut fault = StoreError::Failed("etcd lost the mark of a commit".to_owned());
    for _ in 0..MARKS_MAX {
        let mut mark = etcd.marks.take(&etcd.members).await?;
        match commit_once(etcd, transaction, &mut mark).await {
            Ok(Verdict::Done(revision)) => {
                etcd.marks.give_back(mark);
                return Ok(revision);
            }
            Ok(Verdict::Conflict) => {
                etcd.marks.give_back(mark);
                return Err(StoreError::Conflict);
            }
            Ok(Verdict::MarkLost) => etcd.marks.forget(mark.lease).await,
            // The mark's own lease or one of the transaction's; with a new mark it is the latter.
            Err(StoreError::LeaseEnded) => {
                fault = StoreError::LeaseEnded;
                etcd.marks.forget(mark.lease).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(fault)
}

/// What etcd answered at last.
enum Verdict {
    /// Done, at this revision.
    Done(Revision),
    /// Not done and never will be: a check does not hold.
    Conflict,
    /// Not done: the mark is not what it was, as after etcd was restored from a snapshot.
    MarkLost,
}

async fn commit_once(
    etcd: &Shared,
    transaction: &Transaction,
    mark: &mut Mark,
) -> Result<Verdict, StoreError> {
    let number = random()?;
    let mut patience = Patience::new();
    let mut is_repeated = false;
    loop {
        let attempt = Attempt { keys: &etcd.keys, transaction, mark, number: &number, is_repeated };
        let txn = attempt.txn();
        let call = |member: Client| {
            let txn = txn.clone();
            async move { member.kv.clone().txn(txn).await }
        };
        match etcd.members.attempt(&patience, call).await {
            Ok(response) => return read(&response, mark, &number, is_repeated),
            // An earlier attempt may have been done before etcd began to refuse it.
            Err(Fault::Refused(error)) if is_repeated => return Err(StoreError::Failed(error.to_string())),
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Unanswered(text)) => patience.wait(text).await?,
        }
        is_repeated = true;
    }
}

struct Attempt<'a> {
    keys: &'a Keys,
    transaction: &'a Transaction,
    mark: &'a Mark,
    number: &'a str,
    is_repeated: bool,
}

impl Attempt<'_> {
    fn txn(&self) -> Txn {
        let mut checks = vec![self.mark_is_untouched()];
        checks.extend(self.transaction.checks.iter().map(|(key, expected)| self.check(key, *expected)));
        let mut changes: Vec<_> = self.transaction.changes.iter().map(|change| self.change(change)).collect();
        changes.push(self.put_mark(DONE));
        Txn::new().when(checks).and_then(changes).or_else(self.otherwise())
    }

    /// Reads the mark; a repeated attempt writes its verdict first, where no earlier one was done.
    fn otherwise(&self) -> Vec<TxnOp> {
        let read = TxnOp::get(self.mark.key.as_str(), None);
        if !self.is_repeated {
            return vec![read];
        }
        let verdict = Txn::new().when([self.mark_is_untouched()]).and_then([self.put_mark(REFUSED)]);
        vec![TxnOp::txn(verdict), read]
    }

    fn mark_is_untouched(&self) -> Compare {
        Compare::mod_revision(self.mark.key.as_str(), CompareOp::Equal, self.mark.put_at)
    }

    fn put_mark(&self, verdict: &str) -> TxnOp {
        let options = PutOptions::new().with_lease(self.mark.lease.0);
        TxnOp::put(self.mark.key.as_str(), format!("{}{verdict}", self.number), Some(options))
    }

    fn check(&self, key: &str, expected: Expected) -> Compare {
        // A key that is not there has the revision 0.
        let put_at = match expected {
            Expected::Absent => 0,
            Expected::At(revision) => etcd_revision(revision),
        };
        Compare::mod_revision(self.keys.full(key), CompareOp::Equal, put_at)
    }

    fn change(&self, change: &Change) -> TxnOp {
        match change {
            Change::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(self.keys.full(key), value.as_slice(), options)
            }
            Change::Delete { key } => TxnOp::delete(self.keys.full(key), None),
        }
    }
}

fn read(
    response: &TxnResponse,
    mark: &mut Mark,
    number: &str,
    is_repeated: bool,
) -> Result<Verdict, StoreError> {
    if response.succeeded() {
        let header =
            response.header().ok_or_else(|| StoreError::Failed("etcd's answer is empty".to_owned()))?;
        mark.put_at = header.revision();
        let verdict = if changed_something(response) { revision(mark.put_at) } else { Revision::default() };
        return Ok(Verdict::Done(verdict));
    }
    let found = mark_in(response);
    let put_at = found.as_ref().map_or(0, KeyValue::mod_revision);
    let verdict = found.as_ref().and_then(|found| found.value_str().ok()?.strip_prefix(number));
    match verdict {
        Some(DONE) => {
            mark.put_at = put_at;
            Ok(Verdict::Done(revision(put_at)))
        }
        Some(_) => {
            mark.put_at = put_at;
            Ok(Verdict::Conflict)
        }
        None if is_repeated => {
            Err(StoreError::Failed("etcd lost the mark of a commit whose answer was lost".to_owned()))
        }
        None if put_at == mark.put_at => Ok(Verdict::Conflict),
        None => Ok(Verdict::MarkLost),
    }
}

/// Whether anything but the mark was changed: deleting what is not there is nothing.
fn changed_something(response: &TxnResponse) -> bool {
    let mut answers = response.op_responses();
    answers.pop();
    answers.iter().any(|answer| match answer {
        TxnOpResponse::Put(_) => true,
        TxnOpResponse::Delete(deleted) => deleted.deleted() > 0,
        TxnOpResponse::Get(_) | TxnOpResponse::Txn(_) => false,
    })
}

fn mark_in(response: &TxnResponse) -> Option<KeyValue> {
    let TxnOpResponse::Get(found) = response.op_responses().pop()? else { return None };
    found.kvs().first().cloned()
}

const DONE: &str = " done";
const REFUSED: &str = " refused";
/// A mark is lost when etcd was restored; once more for the lease of the second.
const MARKS_MAX: u32 = 3;
