//! Accepts clients and gives each a session; does nothing else, and never stops for an error.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::drain;
use crate::session::{self, Worker};

/// Pause after an error of accept (out of descriptors, mostly): long enough not to spin.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Redis's own words (networking.c, acceptCommonHandler).
const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// Accepts until the drain begins. Runs on the worker's thread.
pub async fn run(listener: TcpListener, worker: Arc<Worker>, max_clients: usize, mut drain: drain::Watch) {
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        match accepted {
            Ok((client, _)) => {
                failing = false;
                admit(client, &worker, max_clients, &drain);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept clients; trying again");
                }
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn admit(mut client: TcpStream, worker: &Arc<Worker>, max_clients: usize, drain: &drain::Watch) {
    let Some(place) = Place::take(worker, max_clients) else {
        worker.relay.refused.add(1);
        let _: io::Result<usize> = client.try_write(TOO_MANY);
        tokio::spawn(async move { session::linger(&mut client).await });
        return;
    };
    worker.relay.accepted.add(1);
    let (worker, drain) = (worker.clone(), drain.clone());
    tokio::spawn(async move {
        let _held = (place, drain);
        let reason = session::serve(client, worker.clone()).await;
        worker.relay.close(reason as usize);
    });
}

/// One of the `max_clients` places; given back on drop, also when the session panics.
struct Place(Arc<Worker>);

impl Place {
    fn take(worker: &Arc<Worker>, max_clients: usize) -> Option<Place> {
        let place = Place(worker.clone());
        (worker.open.fetch_add(1, Ordering::Relaxed) < max_clients).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        if std::thread::panicking() {
            self.0.relay.closed.add(1); // no reason was given
        }
    }
}
