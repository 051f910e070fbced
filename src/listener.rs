//! Accepts clients and gives each a session; does nothing else, and never stops for an error.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::drain::{self, Stage};
use crate::net::{Conn, Listener};
use crate::session::{self, Worker, registry};

/// Pause after an error of accept (out of descriptors, mostly): long enough not to spin.
const BACK_OFF: Duration = Duration::from_millis(20);
/// For how long the last are accepted.
const LAST_ACCEPTS: Duration = Duration::from_millis(10);
/// How long a client that was refused may take to notice; where no descriptor is left for it, it gets no time.
const REFUSED_LINGER: Duration = Duration::from_millis(100);
/// Redis's own words (networking.c, acceptCommonHandler).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// What is waited for when it ends: the drain of the process, and that of this listener alone.
#[derive(Clone, Debug)]
pub struct Drains {
    /// Of the process.
    pub process: drain::Watch,
    /// Of the listener, which is not configured any more.
    pub own: drain::Watch,
}

/// Accepts until a drain ends sessions, and then those to whom the kernel has said yes already, unless they can wait for
/// the next process. Where it was the listener's own, its sessions are ended. Runs on the worker's thread.
pub async fn run(listener: Listener, worker: Arc<Worker>, drains: Drains) {
    let own = drains.own.news();
    accept(listener, &worker, drains).await;
    if own.stage() != Stage::Serving {
        registry::close(&worker, own).await;
    }
}

async fn accept(listener: Listener, worker: &Arc<Worker>, mut drains: Drains) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drains.process.reached(Stage::Quieting) => break,
            () = drains.own.reached(Stage::Ending) => break,
        };
        match accepted {
            Ok(client) => {
                failing = false;
                admit(client, worker, &drains).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept clients; trying again");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    if listener.outlives_us() {
        return;
    }
    // They get a FIN; closing the listener would reset them.
    let last = async {
        while let Ok(client) = listener.accept().await {
            admit(client, worker, &drains).await;
        }
    };
    let _ = tokio::time::timeout(LAST_ACCEPTS, last).await;
}

async fn admit(client: Conn, worker: &Arc<Worker>, drains: &Drains) {
    if let Some(place) = Place::take(worker) {
        worker.counters.accepted.add(1);
        tokio::spawn(session::serve(client, worker.clone(), (place, drains.process.hold(), drains.own.hold())));
        return;
    }
    worker.counters.refused.add(1);
    match worker.spare.take(1) {
        Some(descriptor) => {
            tokio::spawn(async move {
                refuse(client, REFUSED_LINGER).await;
                drop(descriptor);
            });
        }
        // Here, so that the next is not accepted before this one is closed.
        None => refuse(client, Duration::ZERO).await,
    }
}

async fn refuse(mut client: Conn, linger: Duration) {
    let say = poll_fn(|cx| client.poll_write(cx, TOO_MANY));
    let _ = tokio::time::timeout(REFUSED_LINGER, say).await;
    session::linger(&mut client, linger).await;
}

/// One of the `max_clients` places; given back on drop, also when the session panics.
struct Place(Arc<Worker>);

impl Place {
    fn take(worker: &Arc<Worker>) -> Option<Place> {
        let max_clients = worker.settings.borrow().max_clients;
        let place = Place(worker.clone());
        (worker.open.fetch_add(1, Ordering::Relaxed) < max_clients).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.0.counters.closed.add(1); // no reason was given
        }
    }
}
