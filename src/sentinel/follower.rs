//! One task per Sentinel: keeps a connection to it, passes on what it says, and asks it on time.
//!
//! Never ends by itself and never blocks anything else: a frozen Sentinel is a lost one within [`LIMIT`].

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::config::HostPort;
use crate::secret::Credentials;
use crate::sentinel::client::{self, AddressMap, Begun, Sentinel};
use crate::sentinel::report::{FromSentinel, Input, SentinelAnswer};

/// For connecting and for each answer.
pub(super) const LIMIT: Duration = Duration::from_millis(1500);

/// A subscription that hears nothing looks like a dead one: ask at least this often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// What every follower and prober knows.
pub(super) struct Context {
    pub(super) map: AddressMap,
    pub(super) auth: watch::Receiver<Option<Credentials>>,
    /// The proxy's own listeners: never a master.
    pub(super) own: watch::Receiver<Vec<SocketAddr>>,
    pub(super) name: watch::Receiver<Option<String>>,
    /// Between two polls.
    pub(super) pace: watch::Receiver<Duration>,
}

/// What a task reports to the watch task.
pub(super) enum Message {
    /// For the decision.
    Input(Input),
    /// A Sentinel has begun the failover that was asked for, or why not.
    Asked(Result<(), String>),
    /// A Sentinel's masters, while no name is known.
    Masters(HostPort, Vec<String>),
}

/// What a Sentinel is asked besides its polls.
pub(super) enum Order {
    /// `SENTINEL FAILOVER`.
    Failover(oneshot::Sender<Result<Begun, client::Error>>),
}

/// A running follower; dropping it ends the task.
pub(super) struct Follower {
    /// Asks for a poll now.
    pub(super) poll: Arc<Notify>,
    pub(super) orders: mpsc::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    pub(super) fn spawn(at: HostPort, context: Arc<Context>, out: mpsc::Sender<Message>) -> Follower {
        let poll = Arc::new(Notify::new());
        let (orders, order_receiver) = mpsc::channel(4);
        let task = Task { at, known: Vec::new(), context, out, poll: poll.clone(), orders: order_receiver };
        Follower { poll, orders, task: tokio::spawn(task.run()) }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

struct Task {
    at: HostPort,
    /// Where its name last led.
    known: Vec<SocketAddr>,
    context: Arc<Context>,
    out: mpsc::Sender<Message>,
    poll: Arc<Notify>,
    orders: mpsc::Receiver<Order>,
}

impl Task {
    async fn run(mut self) {
        let mut failures: u32 = 0;
        loop {
            let began = Instant::now();
            let Err(error) = self.follow().await;
            if began.elapsed() > Duration::from_secs(5) {
                failures = 0;
            }
            let mute = matches!(error, client::Error::Mute(_));
            self.report(FromSentinel::Lost { error: error.to_string(), mute }).await;
            while let Ok(Order::Failover(reply)) = self.orders.try_recv() {
                let _ = reply.send(Err(error.clone()));
            }
            tokio::time::sleep(backoff(failures)).await;
            failures += 1;
        }
    }

    /// One connection, until it fails.
    async fn follow(&mut self) -> Result<std::convert::Infallible, client::Error> {
        let (at, auth) = (self.context.map.map(&self.at), self.context.auth.borrow().clone());
        let mut sentinel = Sentinel::connect(&at, &mut self.known, auth.as_ref(), LIMIT).await?;
        self.report(FromSentinel::Connected).await;
        if let Some(notice) = sentinel.notice.take() {
            self.report(FromSentinel::Notice(notice)).await;
        }
        let mut pace = self.context.pace.clone();
        let mut names = self.context.name.clone();
        let mut polled = self.ask(&mut sentinel, &names).await?;
        let mut pinged = polled;
        loop {
            let name = names.borrow_and_update().clone();
            let every = *pace.borrow_and_update();
            tokio::select! {
                event = sentinel.event(name.as_deref()) => self.report_event(event?).await,
                () = self.poll.notified() => polled = self.ask(&mut sentinel, &names).await?,
                () = tokio::time::sleep_until((polled + every).into()) => polled = self.ask(&mut sentinel, &names).await?,
                () = tokio::time::sleep_until((polled.max(pinged) + ALIVE_EVERY).into()) => {
                    pinged = Instant::now();
                    sentinel.ping(LIMIT).await?;
                }
                Some(Order::Failover(reply)) = self.orders.recv() => {
                    // One that waited for a connection is not wanted any more.
                    if !reply.is_closed() {
                        let result = sentinel.failover(&name.unwrap_or_default(), LIMIT).await;
                        let _ = reply.send(result);
                    }
                }
                Ok(()) = pace.changed() => {}
                Ok(()) = names.changed() => polled = self.ask(&mut sentinel, &names).await?,
            }
        }
    }

    async fn ask(
        &self,
        sentinel: &mut Sentinel,
        names: &watch::Receiver<Option<String>>,
    ) -> Result<Instant, client::Error> {
        let name = names.borrow().clone();
        let asked = Instant::now();
        match name {
            Some(name) => {
                let mut answer = sentinel.poll(&name, &self.context.map, LIMIT).await?;
                self.refuse_impossible(&mut answer);
                self.report(FromSentinel::Answer(Box::new(answer))).await;
            }
            None => {
                let masters = sentinel.masters(LIMIT).await?;
                let _ = self.out.send(Message::Masters(self.at.clone(), masters)).await;
            }
        }
        Ok(asked)
    }

    /// A placeholder (0.0.0.0) and our own address would make us dial ourselves.
    fn refuse_impossible(&self, answer: &mut SentinelAnswer) {
        let Some(claim) = &answer.claim else { return };
        let who = &self.at;
        let problem = if claim.addr.ip().is_unspecified() || claim.addr.port() == 0 {
            Some(format!("Sentinel {who} names {}, which is no address of a node", claim.addr))
        } else if is_own(&self.context.own.borrow(), claim.addr) {
            Some(format!(
                "Sentinel {who} names {}, which is this proxy: move the proxy or fix the announced address",
                claim.addr
            ))
        } else {
            None
        };
        if problem.is_some() {
            answer.claim = None;
            answer.problem = problem;
        }
    }

    async fn report_event(&self, event: crate::sentinel::event::Event) {
        let mut resolved = [None, None];
        for (slot, reported) in resolved.iter_mut().zip([&event.master, &event.node]) {
            if let Some(reported) = reported {
                *slot = self.context.map.resolve(reported, LIMIT).await.ok();
            }
        }
        let [master, node] = resolved;
        let node = node.filter(|node| !node.ip().is_unspecified() && !is_own(&self.context.own.borrow(), *node));
        self.report(FromSentinel::Event { kind: event.kind, master, node }).await;
    }

    async fn report(&self, what: FromSentinel) {
        let _ = self.out.send(Message::Input(Input::Sentinel(self.at.clone(), what))).await;
    }
}

/// Whether `addr` is one of our listeners; one on the wildcard address covers every address of this host.
fn is_own(own: &[SocketAddr], addr: SocketAddr) -> bool {
    own.iter()
        .any(|own| *own == addr || (own.port() == addr.port() && own.ip().is_unspecified() && is_local(addr.ip())))
}

/// Only a local address can be bound.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// 100 ms doubling to 1 s, each between half and all of it: many proxies must not knock in step, and the Sentinel that
/// leads the next failover must be heard again soon.
fn backoff(failures: u32) -> Duration {
    let full = Duration::from_millis(100 << failures.min(4)).min(Duration::from_secs(1));
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    full / 2 + full / 2 * (nanos / 1000 % 1000) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_listener_covers_local_addresses_only() {
        let own: Vec<SocketAddr> = vec!["0.0.0.0:6379".parse().expect("parses")];
        assert!(is_own(&own, "127.0.0.1:6379".parse().expect("parses")));
        assert!(!is_own(&own, "127.0.0.1:6380".parse().expect("parses")));
        assert!(!is_own(&own, "203.0.113.7:6379".parse().expect("parses")));
    }
}
