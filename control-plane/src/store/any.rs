//! Whichever store a process runs over.

use std::time::Duration;

use super::{
    Embedded, EmbeddedWatch, Entry, Etcd, EtcdWatch, Event, LeaseId, Lineage, Listing, Revision, Store,
    StoreError, StoreMember, Transaction, Watch,
};

/// One of the stores.
#[derive(Clone)]
pub enum AnyStore {
    /// One file, of this process alone.
    Embedded(Embedded),
    /// Of every process that reaches it.
    Etcd(Etcd),
}

/// One of their watches.
pub enum AnyWatch {
    /// Of the embedded store.
    Embedded(EmbeddedWatch),
    /// Of etcd.
    Etcd(Box<EtcdWatch>),
}

impl From<Embedded> for AnyStore {
    fn from(store: Embedded) -> Self {
        Self::Embedded(store)
    }
}

impl From<Etcd> for AnyStore {
    fn from(store: Etcd) -> Self {
        Self::Etcd(store)
    }
}

impl Watch for AnyWatch {
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        match self {
            Self::Embedded(watch) => watch.next().await,
            Self::Etcd(watch) => watch.next().await,
        }
    }
}

impl Store for AnyStore {
    type Watch = AnyWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Embedded(store) => store.get(key).await,
            Self::Etcd(store) => store.get(key).await,
        }
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        match self {
            Self::Embedded(store) => store.list(prefix).await,
            Self::Etcd(store) => store.list(prefix).await,
        }
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        match self {
            Self::Embedded(store) => store.commit(transaction).await,
            Self::Etcd(store) => store.commit(transaction).await,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        match self {
            Self::Embedded(store) => store.grant(ttl).await,
            Self::Etcd(store) => store.grant(ttl).await,
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.keep_alive(lease).await,
            Self::Etcd(store) => store.keep_alive(lease).await,
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.revoke(lease).await,
            Self::Etcd(store) => store.revoke(lease).await,
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Self::Watch, StoreError> {
        match self {
            Self::Embedded(store) => store.watch(prefix, after).await.map(AnyWatch::Embedded),
            Self::Etcd(store) => {
                store.watch(prefix, after).await.map(|watch| AnyWatch::Etcd(Box::new(watch)))
            }
        }
    }

    async fn lineage(&self) -> Result<Option<Lineage>, StoreError> {
        match self {
            Self::Embedded(store) => store.lineage().await,
            Self::Etcd(store) => store.lineage().await,
        }
    }

    async fn members(&self) -> Vec<StoreMember> {
        match self {
            Self::Embedded(store) => store.members().await,
            Self::Etcd(store) => store.members().await,
        }
    }
}
