//! The store in etcd: one transaction for each commit, comparing the revisions that keys were put at.
//!
//! Members come and go; a call asks the next one where one does not answer. What a commit does when it hears nothing
//! stands in `commit.rs`.

mod commit;
mod keys;
mod lineage;
mod list;
mod marks;
mod members;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Certificate, Identity, TlsOptions};

use super::{Entry, LeaseId, Lineage, Listing, Revision, Store, StoreError, StoreMember, Transaction};
use keys::Keys;
use marks::Marks;
use members::Members;
use watch::HistoryId;

pub use watch::EtcdWatch;

/// Which etcd, and how it is reached.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// Its members, `http://10.0.0.1:2379`; any order.
    pub endpoints: Vec<String>,
    /// What every key starts with in etcd; callers never see it.
    pub prefix: String,
    /// For `https` endpoints.
    pub tls: Option<EtcdTls>,
}

/// How etcd and a replica prove who they are.
#[derive(Clone)]
pub struct EtcdTls {
    /// Who signs etcd's certificates, in PEM.
    pub roots: Vec<u8>,
    /// This replica's certificate and its key, in PEM, where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A store in etcd.
#[derive(Clone)]
pub struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    members: Members,
    keys: Keys,
    marks: Marks,
    /// What the last watch saw; a watch that is opened anew compares with it.
    history: Mutex<Option<HistoryId>>,
}

impl Etcd {
    /// A handle to etcd. It connects when it is first used, so etcd need not be there yet.
    ///
    /// # Errors
    /// [`StoreError::Failed`] where an endpoint or a certificate cannot be understood.
    pub async fn connect(options: &EtcdOptions) -> Result<Self, StoreError> {
        let tls = options.tls.as_ref().map(tls_options);
        let members = Members::connect(&options.endpoints, tls.as_ref()).await?;
        let keys = Keys::new(&options.prefix);
        let marks = Marks::new(&keys)?;
        Ok(Self { shared: Arc::new(Shared { members, keys, marks, history: Mutex::default() }) })
    }
}

fn tls_options(tls: &EtcdTls) -> TlsOptions {
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.roots));
    match &tls.identity {
        Some((certificate, key)) => options.identity(Identity::from_pem(certificate, key)),
        None => options,
    }
}

impl Store for Etcd {
    type Watch = EtcdWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let full = self.shared.keys.full(key);
        let call = |member: members::Client| {
            let full = full.clone();
            async move { member.kv.clone().get(full, None).await }
        };
        let response = self.shared.members.call(call).await?;
        Ok(response.kvs().first().and_then(|found| self.shared.keys.entry(found)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        list::list(&self.shared, prefix).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.validate()?;
        commit::commit(&self.shared, &transaction).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.shared.members.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let call = |member: members::Client| async move {
            member.leases.clone().keep_alive(lease.0).await.map(drop)
        };
        self.shared.members.call(call).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.members.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Self::Watch, StoreError> {
        EtcdWatch::open(Arc::clone(&self.shared), prefix, after).await
    }

    async fn lineage(&self) -> Result<Option<Lineage>, StoreError> {
        lineage::read(&self.shared).await
    }

    async fn members(&self) -> Vec<StoreMember> {
        self.shared.members.statuses().await
    }
}
