//! One task per watched Redis node: asks ROLE at the pace it is told, and says at once when the node hangs up.
//!
//! It dials again at once after a hang-up (a promotion closes all connections) and otherwise at its pace.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use crate::secret::Credentials;
use crate::sentinel::client::{Error, Node};
use crate::sentinel::follower::{Message, Shared};
use crate::sentinel::report::{FromNode, Input, Role};
use crate::sentinel::view::Watch;

/// For an answer. A master in a long script is silent for longer; the decision knows by then.
const ANSWER: Duration = Duration::from_secs(2);
/// For a connection with its AUTH.
const CONNECT: Duration = Duration::from_secs(1);
/// INFO (lineage, lags, keys) beside every so many milliseconds of ROLEs.
const INFO_EVERY: Duration = Duration::from_secs(1);

/// Refused credentials are tried again this often: the password may have been set right on the node.
const AUTH_AGAIN: Duration = Duration::from_secs(5);

/// A running prober; dropping it ends the task.
pub(super) struct Prober {
    watch: watch::Sender<Watch>,
    /// Asks now: a question sent after this.
    pub(super) now: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    pub(super) fn spawn(
        addr: SocketAddr,
        how: Watch,
        credentials: watch::Receiver<Option<Credentials>>,
        shared: Arc<Shared>,
        out: mpsc::Sender<Message>,
        first_number: u64,
    ) -> Prober {
        let (watch, how) = watch::channel(how);
        let now = Arc::new(Notify::new());
        let task = Task { addr, how, credentials, shared, out, now: now.clone(), number: first_number };
        Prober { watch, now, task: tokio::spawn(task.run()) }
    }

    pub(super) fn pace(&self, how: Watch) {
        self.watch.send_if_modified(|current| std::mem::replace(current, how) != how);
    }
}

struct Task {
    addr: SocketAddr,
    how: watch::Receiver<Watch>,
    credentials: watch::Receiver<Option<Credentials>>,
    shared: Arc<Shared>,
    out: mpsc::Sender<Message>,
    now: Arc<Notify>,
    number: u64,
}

impl Task {
    async fn run(mut self) {
        // After a hang-up the first dials follow quickly: a dying process may still accept one and reset it.
        let mut quick = 0;
        loop {
            let began = Instant::now();
            let Err((error, answered)) = self.probe().await;
            let hung_up = answered && matches!(error, Error::Io(_));
            self.tell(match error {
                Error::Refused(text) => FromNode::Refused(text),
                Error::Io(_) if answered => FromNode::Eof,
                other => FromNode::Silent(other.to_string()),
            })
            .await;
            if hung_up {
                quick = 5;
            } else if quick > 0 {
                quick -= 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            } else {
                self.pause(began).await;
            }
        }
    }

    /// One connection, until it fails; whether it had answered before.
    async fn probe(&mut self) -> Result<std::convert::Infallible, (Error, bool)> {
        self.number += 1;
        let trusted = self.how.borrow_and_update().trusted;
        let credentials = self.credentials.borrow_and_update().clone().filter(|_| trusted);
        let connected = Node::connect(self.addr, credentials.as_ref(), &self.shared.map, self.number, CONNECT).await;
        let mut node = connected.map_err(|error| (error, false))?;
        if let Some(notice) = node.notice.take() {
            self.tell(FromNode::Notice(notice)).await;
        }
        let connected = Instant::now();
        let mut last = None;
        let mut informed: Option<Instant> = None;
        let mut answered = false;
        loop {
            let began = Instant::now();
            let with_info = informed.is_none_or(|at| began >= at + INFO_EVERY);
            let answer = node.ask(with_info, last.as_ref(), ANSWER).await.map_err(|error| (error, answered))?;
            if answer.info.is_some() || with_info {
                informed = Some(began);
            }
            answered = true;
            last = Some(answer.role.clone());
            self.tell(FromNode::Answer(Box::new(answer))).await;
            tokio::select! {
                () = node.closed() => return Err((Error::Io(format!("Redis {} closed the connection", self.addr)), true)),
                () = self.pause(began) => {}
            }
            let unreadable = matches!(last, Some(Role::Unreadable(_))) && credentials.is_some();
            if unreadable && connected.elapsed() > AUTH_AGAIN {
                return Err((Error::Auth(format!("Redis {} does not take our credentials", self.addr)), true));
            }
            if self.credentials.has_changed().unwrap_or(false) || self.how.borrow().trusted != trusted {
                // Authenticate anew; not a hang-up of the node's.
                return Err((Error::Io("other credentials".into()), true));
            }
        }
    }

    /// Until the next question is due; a faster pace and a call cut it short.
    async fn pause(&self, began: Instant) {
        let mut how = self.how.clone();
        let mut credentials = self.credentials.clone();
        loop {
            let every = how.borrow_and_update().every;
            tokio::select! {
                () = tokio::time::sleep_until((began + every).into()) => return,
                () = self.now.notified() => return,
                Ok(()) = how.changed() => {}
                Ok(()) = credentials.changed() => return,
            }
        }
    }

    async fn tell(&self, what: FromNode) {
        let _ = self.out.send(Message::Input(Input::Node(self.addr, what))).await;
    }
}
