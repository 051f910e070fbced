//! One monitored master as a unit: its name, where it is, how to log in there, and the scripts that its clients loaded.
//!
//! Both planes know it and neither the other: control writes the name, the topology and the credentials, sessions the
//! scripts, and what a session finds out it reports or offers. Nothing here does I/O or decides anything.

mod login;
mod scripts;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::secret::Credentials;
use crate::topology::{Report, Topology};

pub use login::KnownCredentials;
pub use scripts::Scripts;

/// Tells an upstream from every other of this process: what leads to one is never used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(u32);

/// One monitored master, shared by control, every worker and the admin server.
#[derive(Debug)]
pub struct Upstream {
    /// Part of the key under which connections are pooled.
    pub id: UpstreamId,
    name: OnceLock<Arc<str>>,
    /// Who is master, and whether requests may flow there.
    pub topology: Arc<Topology>,
    /// With what its nodes let us in.
    pub credentials: KnownCredentials,
    /// The scripts that clients have loaded.
    pub scripts: Scripts,
}

impl Upstream {
    /// An upstream without a master yet, and the receiver of its sessions' reports. `name` and `credentials` are those
    /// that are configured; with `learns`, control wants to know those with which clients authenticate.
    pub fn new(
        name: Option<&str>,
        credentials: Option<&Credentials>,
        learns: bool,
    ) -> (Arc<Upstream>, mpsc::Receiver<Report>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (topology, reports) = Topology::new();
        let upstream = Upstream {
            id: UpstreamId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name: name.map(Arc::from).map(OnceLock::from).unwrap_or_default(),
            topology,
            credentials: KnownCredentials::new(credentials, learns),
            scripts: Scripts::default(),
        };
        (Arc::new(upstream), reports)
    }

    /// The Sentinels agree on its name. One that is known stays.
    pub fn found(&self, name: &str) {
        let _ = self.name.set(name.into());
    }

    /// The value of the label `master` of its metrics: the name that is configured or was found. Empty until then, which
    /// to Prometheus is no label at all, since any other value would be a series that ends when the name is known.
    pub fn label(&self) -> &str {
        self.name.get().map_or("", |name| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_once_and_no_two_upstreams_are_the_same() {
        let ((one, _reports), (other, _others)) =
            (Upstream::new(None, None, true), Upstream::new(Some("b"), None, true));
        assert_ne!(one.id, other.id);
        assert_eq!((one.label(), other.label()), ("", "b"));
        one.found("a");
        one.found("c");
        other.found("c");
        assert_eq!((one.label(), other.label()), ("a", "b"));
    }
}
