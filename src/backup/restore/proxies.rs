//! The switchmasters that front the target: asked whom they follow, held, kept held, released.
//!
//! A hold ends by itself [`HOLD`] after it was last renewed: whatever becomes of us, clients flow again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::admin::View;
use crate::admin::client::{self, Remote};
use crate::backup::Error;

/// How long a hold lasts when it is not renewed.
const HOLD: Duration = Duration::from_secs(15);
/// Between two renewals; three may fail.
const RENEW: Duration = Duration::from_secs(4);
/// How long proxies may take to see that the data set is another one. They ask for the history once a second.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Every proxy that was named.
#[derive(Debug)]
pub struct Proxies {
    all: Vec<(Remote, u64)>,
}

impl Proxies {
    /// Asks each what it fronts. `target` is the master's address and `run_id` its process.
    ///
    /// # Errors
    /// One cannot be reached, fronts another master, or does not follow one undisturbed.
    pub async fn survey(remotes: Vec<Remote>, target: SocketAddr, run_id: &str) -> Result<Proxies, Error> {
        let mut all = Vec::new();
        for remote in remotes {
            let view = client::look(&remote).await.map_err(|error| {
                Error::Unavailable(format!("the proxy at {}: {error}; nothing was changed", remote.admin))
            })?;
            fronts(&view, target, run_id)
                .map_err(|why| Error::Restore(format!("the proxy at {} {why}; nothing was changed", remote.admin)))?;
            all.push((remote, view.term));
        }
        Ok(Proxies { all })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Holds all of them. When one refuses, the others are released again.
    pub async fn hold(&self) -> Result<(), Error> {
        for (remote, _) in &self.all {
            if let Err(error) = client::order_hold(remote, HOLD).await {
                self.release().await;
                return Err(Error::Restore(format!(
                    "the proxy at {} does not hold its clients: {error}; nothing was changed",
                    remote.admin
                )));
            }
        }
        Ok(())
    }

    /// Renews the holds; returns when one cannot be renewed any more.
    pub async fn keep(&self) -> Error {
        if self.all.is_empty() {
            return std::future::pending().await;
        }
        let mut renewed: Vec<Instant> = vec![Instant::now(); self.all.len()];
        loop {
            sleep(RENEW).await;
            for ((remote, _), renewed) in self.all.iter().zip(&mut renewed) {
                let asked = Instant::now();
                let order = tokio::time::timeout(RENEW / 2, client::order_hold(remote, HOLD)).await;
                let error = match order {
                    Ok(Ok(_)) => {
                        *renewed = asked;
                        continue;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".into(),
                };
                tracing::warn!("the hold of the proxy at {} was not renewed: {error}", remote.admin);
                if renewed.elapsed() + RENEW + RENEW / 2 > HOLD {
                    return Error::Restore(format!("the proxy at {} cannot be held any longer: {error}", remote.admin));
                }
            }
        }
    }

    /// Waits until each has seen that its master's data set is another one. Until then it would take what its clients
    /// have outstanding for answered. Returns those that did not say so in time.
    pub async fn seen(&self) -> Vec<SocketAddr> {
        let started = Instant::now();
        let mut waiting: Vec<&(Remote, u64)> = self.all.iter().collect();
        while !waiting.is_empty() && started.elapsed() < SEEN_WITHIN {
            let mut still = Vec::new();
            for proxy in waiting {
                let (remote, term) = proxy;
                if !client::look(remote).await.is_ok_and(|view| view.term > *term && view.master.is_some()) {
                    still.push(proxy);
                }
            }
            waiting = still;
            sleep(Duration::from_millis(50)).await;
        }
        waiting.into_iter().map(|(remote, _)| remote.admin).collect()
    }

    /// Lets every client flow. Returns those that could not be told; they release by themselves after [`HOLD`].
    pub async fn release(&self) -> Vec<SocketAddr> {
        let mut untold = Vec::new();
        for (remote, _) in &self.all {
            let order = tokio::time::timeout(RENEW, client::order_release(remote)).await;
            if !matches!(order, Ok(Ok(_))) {
                untold.push(remote.admin);
            }
        }
        untold
    }
}

/// Whether a proxy with this view sends its clients to the target, and nothing is going on.
fn fronts(view: &View, target: SocketAddr, run_id: &str) -> Result<(), String> {
    let Some(master) = &view.master else {
        return Err(format!("follows no master now ({})", view.reason));
    };
    // Its way to the node may be another one than ours (address_map), the process is the same.
    let same = match &master.run_id {
        Some(theirs) if !run_id.is_empty() => theirs == run_id,
        _ => master.addr == target.to_string(),
    };
    if !same {
        return Err(format!("fronts another master, {} of {}, and not {target}", master.addr, view.master_name));
    }
    if view.phase != "stable" || master.provisional {
        return Err(format!("is in the phase {:?} ({}): try again when it is stable", view.phase, view.reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::MasterView;

    #[test]
    fn only_a_settled_proxy_of_this_very_master_will_do() {
        let target = "10.0.0.1:6379".parse().unwrap();
        let master = MasterView { addr: "10.0.0.1:6379".into(), run_id: Some("abc".into()), ..MasterView::default() };
        let view = View { phase: "stable".into(), master: Some(master.clone()), ..View::default() };
        let with = |change: &dyn Fn(&mut MasterView)| {
            let mut master = master.clone();
            change(&mut master);
            View { master: Some(master), ..view.clone() }
        };
        assert_eq!(fronts(&view, target, "abc"), Ok(()));
        assert_eq!(fronts(&with(&|master| master.addr = "172.17.0.2:6379".into()), target, "abc"), Ok(()));
        assert_eq!(fronts(&with(&|master| master.run_id = None), target, "abc"), Ok(()));
        assert!(fronts(&view, target, "other").unwrap_err().contains("another master"));
        assert!(fronts(&with(&|master| (master.run_id, master.addr) = (None, "x:1".into())), target, "abc").is_err());
        assert!(fronts(&with(&|master| master.provisional = true), target, "abc").is_err());
        assert!(fronts(&View { phase: "switching".into(), ..view.clone() }, target, "abc").is_err());
        assert!(fronts(&View { master: None, ..view }, target, "abc").is_err());
    }
}
