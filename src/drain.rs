//! Draining: whoever holds a [`Watch`] or a [`Hold`] is still busy; the [`Signal`] waits until all are dropped.
//!
//! It goes stage by stage, forwards only. The deadlines are the caller's (`serve/server.rs`): nothing here knows the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{mpsc, watch};

/// How far the drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was not asked for.
    Serving,
    /// All are served as before, also who comes now; what takes long and was under way when this began is waited for.
    Settling,
    /// Nobody is accepted: who comes waits for the next process, for which there is no reason to hurry those who are about to
    /// leave anyway. Sessions that nothing was asked of for a moment end. Only where listeners outlive this process.
    Quieting,
    /// Nobody is accepted. Sessions end between requests.
    Ending,
    /// No request is begun any more: sessions end when they are owed nothing.
    Stopping,
    /// Sessions end as they are.
    Cutting,
}

/// A stage that is looked at far more often than it changes.
#[derive(Debug, Default)]
pub struct StageCell(AtomicU8);

impl StageCell {
    /// Later looks find this one.
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// The one that was set last.
    #[inline]
    pub fn get(&self) -> Stage {
        const ALL: [Stage; 6] =
            [Stage::Serving, Stage::Settling, Stage::Quieting, Stage::Ending, Stage::Stopping, Stage::Cutting];
        ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// The end that asks for the drain.
#[derive(Debug)]
pub struct Signal {
    stage: watch::Sender<Stage>,
    busy: Arc<watch::Sender<usize>>,
    all_dropped: mpsc::Receiver<()>,
}

/// The obligation, with the news of the drain: held by each listener, dropped when it has ended.
#[derive(Clone, Debug)]
pub struct Watch {
    news: News,
    held: Hold,
}

/// The obligation alone: held by each session.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "what counts is that it is there")] mpsc::Sender<()>);

/// The news alone.
#[derive(Clone, Debug)]
pub struct News {
    stage: watch::Receiver<Stage>,
    busy: Arc<watch::Sender<usize>>,
}

/// Held from the start until what was under way when the drain began is done.
#[derive(Debug)]
pub struct Busy(Arc<watch::Sender<usize>>);

/// A signal and its first watch.
pub fn channel() -> (Signal, Watch) {
    let (stage, receiver) = watch::channel(Stage::Serving);
    let (held, all_dropped) = mpsc::channel(1);
    let busy = Arc::new(watch::Sender::new(0));
    let news = News { stage: receiver, busy: busy.clone() };
    (Signal { stage, busy, all_dropped }, Watch { news, held: Hold(held) })
}

impl Signal {
    /// Begins the drain, and returns when nothing is under way any more that was so then.
    pub async fn settle(&mut self) {
        self.stage.send_replace(Stage::Settling);
        let _ = self.busy.subscribe().wait_for(|busy| *busy == 0).await;
    }

    /// Goes on to this stage, and returns when the last watch and the last hold are dropped.
    pub async fn end(&mut self, stage: Stage) {
        self.stage.send_replace(stage);
        while self.all_dropped.recv().await.is_some() {}
    }
}

impl Watch {
    /// For somebody else to hold.
    pub fn hold(&self) -> Hold {
        self.held.clone()
    }

    /// For somebody who need not be waited for.
    pub fn news(&self) -> News {
        self.news.clone()
    }

    /// Returns once the drain was asked for.
    pub async fn draining(&mut self) {
        self.reached(Stage::Settling).await;
    }

    /// Returns once it is at this stage, or further.
    pub async fn reached(&mut self, stage: Stage) {
        self.news.reached(stage).await;
    }
}

impl News {
    /// The stage now.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Returns once the drain is at this stage, or further.
    pub async fn reached(&mut self, stage: Stage) {
        if self.stage.wait_for(|now| *now >= stage).await.is_err() {
            // The signal is gone: nobody will ever ask.
            std::future::pending::<()>().await;
        }
    }

    /// Returns true at the next stage, and false once there is none any more: the signal is gone.
    pub async fn changed(&mut self) -> bool {
        self.stage.changed().await.is_ok()
    }

    /// One more whose work at the beginning of the drain is waited for.
    pub fn busy(&self) -> Busy {
        self.busy.send_modify(|busy| *busy += 1);
        Busy(self.busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|busy| *busy -= 1);
    }
}
