//! The switchmasters that front the target: asked whom they follow, held, kept held, released.
//!
//! A hold ends by itself `HOLD` after it was last renewed: whatever becomes of us, clients flow again.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};

use crate::Error;
use crate::config::HostPort;
use crate::control::Control;
use crate::net::ListenAddr;
use crate::remote::Remote;
use crate::status::{MasterView, View};

/// How long a hold lasts when it is not renewed.
const HOLD: Duration = Duration::from_secs(15);
const HOLD_ORDER: Control = Control::Hold { for_: HOLD };
/// Between two renewals; three may fail.
const RENEW: Duration = Duration::from_secs(4);
/// Between two looks at whom a proxy follows, and how long one may take.
const LOOK: Duration = Duration::from_millis(100);
/// For an answer of a proxy in passing.
const ANSWER: Duration = Duration::from_secs(2);
/// How long proxies may take to see that the data set is another one. They ask for the history once a second.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// Every proxy that was named.
#[derive(Debug)]
pub struct Proxies {
    all: Vec<Proxy>,
}

#[derive(Debug)]
struct Proxy {
    remote: Remote,
    /// When it was surveyed.
    term: u64,
    /// The target, and the process there.
    target: SocketAddr,
    run_id: String,
    /// It follows another node since, and was released.
    gone: AtomicBool,
}

/// The address of each proxy; of several that a name has, one where somebody listens.
///
/// # Errors
/// [`Error::Unavailable`]: a name means nothing here.
pub async fn resolve(proxies: &[HostPort]) -> Result<Vec<SocketAddr>, Error> {
    let mut found = Vec::new();
    for proxy in proxies {
        let unknown = |why: String| Error::Unavailable(format!("the proxy {proxy}: {why}; nothing was changed"));
        let addrs = timeout(ANSWER, lookup_host((proxy.host.as_str(), proxy.port))).await;
        let addrs = addrs.map_err(|_| unknown("its name was not resolved in time".into()))?;
        let addrs: Vec<SocketAddr> = addrs.map_err(|error| unknown(error.to_string()))?.collect();
        let mut chosen = *addrs.first().ok_or_else(|| unknown("its name has no address".into()))?;
        for addr in addrs.iter().filter(|_| addrs.len() > 1) {
            if matches!(timeout(ANSWER, TcpStream::connect(addr)).await, Ok(Ok(_))) {
                chosen = *addr;
                break;
            }
        }
        found.push(chosen);
    }
    Ok(found)
}

impl Proxies {
    /// Asks each what it fronts. `target` is the master's address and `run_id` its process.
    ///
    /// # Errors
    /// One cannot be reached, fronts another master, or does not follow one undisturbed.
    pub async fn survey(remotes: Vec<Remote>, target: SocketAddr, run_id: &str) -> Result<Proxies, Error> {
        let mut all = Vec::new();
        for remote in remotes {
            let view = remote.look().await.map_err(|error| {
                Error::Unavailable(format!("the proxy at {}: {error}; nothing was changed", remote.admin))
            })?;
            fronts(&view, target, run_id)
                .map_err(|why| Error::Restore(format!("the proxy at {} {why}; nothing was changed", remote.admin)))?;
            all.push(Proxy {
                remote,
                term: view.term,
                target,
                run_id: run_id.to_owned(),
                gone: AtomicBool::new(false),
            });
        }
        Ok(Proxies { all })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Holds all of them. When one refuses, the others are released again.
    pub async fn hold(&self) -> Result<(), Error> {
        for Proxy { remote, .. } in &self.all {
            if let Err(error) = remote.order(&HOLD_ORDER).await {
                self.release().await;
                return Err(Error::Restore(format!(
                    "the proxy at {} does not hold its clients: {error}; nothing was changed",
                    remote.admin
                )));
            }
        }
        Ok(())
    }

    /// Renews the holds; returns when one cannot be renewed any more, or follows another master and was released.
    pub async fn keep(&self) -> Error {
        match try_join_all(self.all.iter().map(Proxy::keep)).await {
            Err(error) => error,
            Ok(never) => match never.first() {
                Some(never) => match *never {},
                None => std::future::pending().await,
            },
        }
    }

    /// Renews every hold as long as that goes, and releases each proxy as soon as it follows another master.
    pub async fn keep_each(&self) {
        join_all(self.all.iter().map(Proxy::keep)).await;
    }

    /// Waits until each has seen that its master's data set is another one. Until then it would take what its clients
    /// have outstanding for answered. Returns those that did not say so in time.
    pub async fn seen(&self) -> Vec<ListenAddr> {
        let started = Instant::now();
        let mut waiting: Vec<&Proxy> = self.all.iter().collect();
        while !waiting.is_empty() && started.elapsed() < SEEN_WITHIN {
            let mut still = Vec::new();
            for proxy in waiting {
                let view = proxy.remote.look().await;
                if !view.is_ok_and(|view| view.term > proxy.term && view.master.is_some()) {
                    still.push(proxy);
                }
            }
            waiting = still;
            sleep(Duration::from_millis(50)).await;
        }
        waiting.into_iter().map(|proxy| proxy.remote.admin.clone()).collect()
    }

    /// Lets every client flow. Returns those that could not be told; they release by themselves after `HOLD`.
    pub async fn release(&self) -> Vec<ListenAddr> {
        let untold = self.all.iter().map(async |proxy| (!proxy.release().await).then(|| proxy.remote.admin.clone()));
        join_all(untold).await.into_iter().flatten().collect()
    }
}

impl Proxy {
    /// Renews the hold until that fails for too long, or until it follows another master: then it is released.
    async fn keep(&self) -> Result<Infallible, Error> {
        let admin = &self.remote.admin;
        let mut renewed = Instant::now();
        let mut asked = renewed;
        loop {
            if self.gone.load(Ordering::Relaxed) {
                return Err(Error::Restore(format!("the proxy at {admin} follows another master now")));
            }
            sleep(LOOK).await;
            if let Ok(Ok(view)) = timeout(ANSWER, self.remote.look()).await
                && let Some(master) = &view.master
                && !is(master, self.target, &self.run_id)
            {
                self.release().await;
                self.gone.store(true, Ordering::Relaxed);
                return Err(Error::Restore(format!(
                    "the proxy at {admin} follows another master now, {}",
                    master.addr
                )));
            }
            if asked.elapsed() < RENEW {
                continue;
            }
            asked = Instant::now();
            let error = match timeout(ANSWER, self.remote.order(&HOLD_ORDER)).await {
                Ok(Ok(_)) => {
                    renewed = asked;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".into(),
            };
            tracing::warn!("the hold of the proxy at {admin} was not renewed: {error}");
            if renewed.elapsed() + RENEW + 2 * ANSWER > HOLD {
                return Err(Error::Restore(format!("the proxy at {admin} cannot be held any longer: {error}")));
            }
        }
    }

    /// Whether it could be told.
    async fn release(&self) -> bool {
        let told = self.gone.load(Ordering::Relaxed);
        told || matches!(timeout(RENEW, self.remote.order(&Control::Release)).await, Ok(Ok(_)))
    }
}

/// Whether a proxy with this view sends its clients to the target, and nothing is going on.
fn fronts(view: &View, target: SocketAddr, run_id: &str) -> Result<(), String> {
    let Some(master) = &view.master else {
        return Err(format!("follows no master now ({})", view.reason));
    };
    if !is(master, target, run_id) {
        return Err(format!("fronts another master, {} of {}, and not {target}", master.addr, view.master_name));
    }
    if view.phase != "stable" || master.provisional {
        return Err(format!("is in the phase {:?} ({}): try again when it is stable", view.phase, view.reason));
    }
    Ok(())
}

/// Its way to the node may be another one than ours (address_map), the process is the same.
fn is(master: &MasterView, target: SocketAddr, run_id: &str) -> bool {
    match &master.run_id {
        Some(theirs) if !run_id.is_empty() => theirs == run_id,
        _ => master.addr == target.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
