//! etcd over TLS with certificates on both sides.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use trunkline_control_plane::store::{Etcd, EtcdOptions, EtcdTls, Store, StoreError};

use crate::cluster::{Certificates, Cluster};
use crate::harness::{put, value};

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A certificate for loopback and its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A store over etcd that trusts this authority and shows a certificate of the other.
    async fn store(&self, cluster: &Cluster, shown: Option<(String, String)>) -> Etcd {
        let identity = shown.map(|(certificate, key)| (certificate.into_bytes(), key.into_bytes()));
        let tls = Some(EtcdTls { roots: self.certificate.clone().into_bytes(), identity });
        let (endpoints, prefix) = (cluster.endpoints(), "trunkline/".to_owned());
        Etcd::connect(&EtcdOptions { endpoints, prefix, tls }).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_prove_who_they_are() {
    let (ours, others) = (Authority::new(), Authority::new());
    let certificates = Certificates { roots: ours.certificate.clone(), identity: ours.issue() };
    let Some(cluster) = Cluster::start_with(&certificates) else { return };
    let store = ours.store(&cluster, Some(ours.issue())).await;
    cluster.wait(&store).await;
    put(&store, "k", "1").await;
    assert_eq!(value(&store, "k").await.unwrap(), "1");
    let refused = [
        ours.store(&cluster, None).await,
        ours.store(&cluster, Some(others.issue())).await,
        others.store(&cluster, Some(ours.issue())).await,
    ];
    let asked = refused.map(|store| tokio::spawn(async move { store.get("k").await }));
    for answer in asked {
        assert!(matches!(answer.await.unwrap(), Err(StoreError::Failed(_))));
    }
}
