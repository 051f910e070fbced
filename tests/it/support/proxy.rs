//! The real binary, as cargo built it, in front of a test's cluster.

use switchmaster::demo::cluster::Cluster;
use switchmaster::demo::proxy::{Proxy, ProxySpec};

/// How to start the binary for `cluster`; to be changed before [`Proxy::start`].
#[allow(dead_code)]
pub fn spec(cluster: &Cluster) -> ProxySpec {
    ProxySpec::of(cluster, env!("CARGO_BIN_EXE_switchmaster"))
}

/// The proxy for `cluster`, accepting connections on a free port.
#[allow(dead_code)]
pub async fn start(cluster: &Cluster) -> Proxy {
    Proxy::start(&spec(cluster)).await.unwrap_or_else(|error| panic!("{error}"))
}
