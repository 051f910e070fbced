//! Draining: whoever holds a [`Watch`] or a [`Hold`] is still busy; the [`Signal`] waits until all are dropped.
//!
//! The deadline is the caller's (`serve.rs`): nothing here knows the time.

use tokio::sync::{mpsc, watch};

/// The end that asks for the drain.
#[derive(Debug)]
pub struct Signal {
    draining: watch::Sender<bool>,
    all_dropped: mpsc::Receiver<()>,
}

/// The obligation, with the news that the drain was asked for: held by each listener, dropped when it has ended.
#[derive(Clone, Debug)]
pub struct Watch {
    draining: watch::Receiver<bool>,
    held: Hold,
}

/// The obligation alone: held by each session.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "what counts is that it is there")] mpsc::Sender<()>);

/// A signal and its first watch.
pub fn channel() -> (Signal, Watch) {
    let (draining, receiver) = watch::channel(false);
    let (held, all_dropped) = mpsc::channel(1);
    (Signal { draining, all_dropped }, Watch { draining: receiver, held: Hold(held) })
}

impl Signal {
    /// Asks every holder to finish and returns when the last watch is dropped.
    pub async fn drain(&mut self) {
        self.draining.send_replace(true);
        while self.all_dropped.recv().await.is_some() {}
    }
}

impl Watch {
    /// For somebody else to hold.
    pub fn hold(&self) -> Hold {
        self.held.clone()
    }

    /// Returns once the drain was asked for.
    pub async fn draining(&mut self) {
        if self.draining.wait_for(|draining| *draining).await.is_err() {
            // The signal is gone: nobody will ever ask.
            std::future::pending::<()>().await;
        }
    }
}
