//! stub
use crate::core::Core;
use crate::leader::Term;
use tokio::sync::watch;
/// Runs.
pub async fn run(_core: Core, _terms: watch::Receiver<Option<Term>>) {
    std::future::pending::<()>().await;
}
