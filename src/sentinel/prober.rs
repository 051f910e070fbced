//! One task per watched Redis node: asks ROLE at the pace that the tracker wants, and says at once when the node hangs up.
//!
//! It dials again at once after a hang-up (a promotion closes all connections) and otherwise at its pace. To ask as
//! somebody else it dials beside the open connection, so that no doubt arises whether it is the same process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use crate::sentinel::client::{Error, Node};
use crate::sentinel::follower::{Context, Message};
use crate::sentinel::report::{FromNode, Input, NodeAnswer};
use crate::sentinel::tracker::{Login, Pace};

/// For an answer. A master in a long script is silent for longer; the decision knows by then.
const ANSWER: Duration = Duration::from_secs(2);
/// For a connection with its AUTH.
const CONNECT: Duration = Duration::from_secs(1);
/// INFO (lineage, lags, keys) beside every so many milliseconds of ROLEs.
const INFO_EVERY: Duration = Duration::from_secs(1);

/// When no second connection could be had, the next try is this much later.
const RELOGIN_AFTER: Duration = Duration::from_secs(1);

/// A running prober; dropping it ends the task.
pub(super) struct Prober {
    watch: watch::Sender<Pace>,
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
        how: Pace,
        credentials: watch::Receiver<Login>,
        context: Arc<Context>,
        out: mpsc::Sender<Message>,
        first_number: u64,
    ) -> Prober {
        let (watch, how) = watch::channel(how);
        let now = Arc::new(Notify::new());
        let task = Task { addr, how, credentials, context, out, now: now.clone(), number: first_number };
        Prober { watch, now, task: tokio::spawn(task.run()) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) fn pace(&self, how: Pace) {
        self.watch.send_if_modified(|current| std::mem::replace(current, how) != how);
    }
}

struct Task {
    addr: SocketAddr,
    how: watch::Receiver<Pace>,
    credentials: watch::Receiver<Login>,
    context: Arc<Context>,
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
            self.report(match error {
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

    /// One connection after the other to what is surely one process, until one fails; whether it had answered before.
    async fn probe(&mut self) -> Result<std::convert::Infallible, (Error, bool)> {
        self.number += 1;
        let mut login = self.login();
        let mut node = self.connect(&login).await.map_err(|error| (error, false))?;
        let mut last = None;
        let mut informed: Option<Instant> = None;
        let mut answered = false;
        let mut not_before = Instant::now();
        loop {
            let began = Instant::now();
            let with_info = informed.is_none_or(|at| began >= at + INFO_EVERY);
            let answer = node.ask(with_info, last.as_ref(), ANSWER).await.map_err(|error| (error, answered))?;
            if answer.info.is_some() || with_info {
                informed = Some(began);
            }
            answered = true;
            last = Some(answer.role.clone());
            self.report(FromNode::Answer(Box::new(answer))).await;
            tokio::select! {
                () = node.closed() => {
                    return Err((Error::Io(format!("Redis {} closed the connection", self.addr)), true));
                }
                () = self.pause(began) => {}
            }
            let wanted = self.login();
            if wanted.id == login.id || Instant::now() < not_before {
                continue;
            }
            match self.connect_beside(&wanted).await {
                Ok((_, second)) if node.is_closed() => {
                    drop(second);
                    return Err((Error::Io(format!("Redis {} closed the connection", self.addr)), true));
                }
                Ok((answer, second)) => {
                    (node, login, last, informed) = (second, wanted, Some(answer.role.clone()), Some(Instant::now()));
                    self.report(FromNode::Answer(Box::new(answer))).await;
                }
                // The open one goes on to be asked.
                Err(error) => {
                    tracing::debug!("a second connection to Redis {}: {error}", self.addr);
                    not_before = Instant::now() + RELOGIN_AFTER;
                }
            }
        }
    }

    /// As whom to ask now.
    fn login(&mut self) -> Login {
        let trusted = self.how.borrow_and_update().trusted;
        let login = self.credentials.borrow_and_update().clone();
        if trusted || login.credentials.is_none() { login } else { Login::default() }
    }

    async fn connect(&self, login: &Login) -> Result<Node, Error> {
        let mut node = Node::connect(self.addr, login, &self.context.map, self.number, CONNECT).await?;
        if let Some(notice) = node.notice.take() {
            self.report(FromNode::Notice(notice)).await;
        }
        Ok(node)
    }

    /// A further connection, and its first answer. If the first one is still open then, both are to the same process:
    /// they have the same number.
    async fn connect_beside(&self, login: &Login) -> Result<(NodeAnswer, Node), Error> {
        let mut node = self.connect(login).await?;
        Ok((node.ask(true, None, ANSWER).await?, node))
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

    async fn report(&self, what: FromNode) {
        let _ = self.out.send(Message::Input(Input::Node(self.addr, what))).await;
    }
}
