//! The admin server: metrics, health, status and control over HTTP/1.
//!
//! It answers from cached state and never waits for Redis (`/health` excepted, within its budget), and nothing that a
//! client does to it (slow, silent, many) takes more than one of a bounded number of places for a bounded time. Each
//! listener has its own places: a crowd at the port keeps nobody from the socket.
//! It holds no [`crate::drain::Watch`]: it answers until the process ends, so that a drain can be seen.

mod control;
pub mod health;
mod history;
mod page;
mod probe;
mod process;
mod scrape;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

pub use control::{Commands, Socket};
pub use health::OnGlobalOutage;

use crate::control::Control;
use crate::metrics::WorkerCounters;
use crate::net::{Asker, Conn, ListenAddr, Listener};
use crate::secret::Secret;
use crate::status::{MasterView, Readiness, Traffic, View};
use crate::topology::Phase;
use crate::upstream::Upstream;

/// What the server shows and whom it tells. Everything here is cheap to read at any time.
pub struct Admin {
    /// Phase, reason, outage and master come from here, and the credentials for `/health`.
    pub upstream: Arc<Upstream>,
    /// The workers' counters.
    pub workers: Arc<[Arc<WorkerCounters>]>,
    /// What the control plane knows; the fields that [`View`] calls the admin server's are overwritten.
    pub view: Arc<dyn Fn() -> View + Send + Sync>,
    /// The samples of the backups of the master of this name, for `/metrics`.
    pub backups: Arc<dyn Fn(&str) -> String + Send + Sync>,
    /// Takes commands.
    pub commands: Commands,
    /// Set once the process has begun to drain.
    pub draining: Arc<AtomicBool>,
    /// From [`crate::metrics::install`].
    pub prometheus: PrometheusHandle,
    /// The proxy's own listener, which `/health` goes through. A reload may change it.
    pub proxy: watch::Receiver<ListenAddr>,
    /// Limits and choices.
    pub options: Options,
}

/// Limits and choices of the admin server.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a master may stay unconfirmed before `/ready` says 503.
    pub ready_grace: Duration,
    /// What `/ready` says when the Sentinels agree that there is no master.
    pub on_global_outage: OnGlobalOutage,
    /// How long `/health` may take.
    pub health_budget: Duration,
    /// Where commands are taken without a token, if one of the listeners is there.
    pub socket: Option<Socket>,
    /// Commands that carry it are taken over TCP; without one, none are. A reload may change it.
    pub token: watch::Receiver<Option<Secret>>,
    /// How long a command's answer is waited for.
    pub control_limit: Duration,
    /// Connections served at once over TCP. Of those beyond, a few are let in for `/live` and `/ready` alone; any other is
    /// answered with 503.
    pub max_connections: usize,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a connection may last in all.
    pub connection_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ready_grace: Duration::from_secs(30),
            on_global_outage: OnGlobalOutage::Ready,
            health_budget: Duration::from_secs(2),
            socket: None,
            token: watch::channel(None).1,
            control_limit: Duration::from_secs(25),
            max_connections: 64,
            header_timeout: Duration::from_secs(3),
            connection_limit: Duration::from_secs(20),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("proxy", &self.proxy).field("options", &self.options).finish_non_exhaustive()
    }
}

/// Serves on `listeners` for ever; dropping the future ends every connection.
pub async fn serve(admin: Admin, listeners: Vec<Listener>) {
    let server = Arc::new(Server {
        probe: probe::Probe::new(admin.proxy.clone()),
        probes: Mutex::default(),
        rates: Mutex::default(),
        history: Mutex::default(),
        started: Instant::now(),
        admin,
    });
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(server.clone(), listener));
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        server.tick();
    }
}

/// Accepts for ever; ends every connection when dropped.
async fn accept(server: Arc<Server>, listener: Listener) {
    let (places, most_waiting) = match listener.is_unix() {
        true => (SOCKET_PLACES, SOCKET_PLACES),
        false => (server.admin.options.max_connections, MOST_WAITING),
    };
    let places = Arc::new(Semaphore::new(places));
    // Beyond the places: the oldest makes room, so that who asks at once is answered whoever else is there.
    let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(conn) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let server = server.clone();
                        connections.spawn(async move {
                            server.converse(conn).await;
                            drop(place);
                        });
                    }
                    Err(_) => {
                        waiting.retain(|one| !one.is_finished());
                        if waiting.len() == most_waiting {
                            waiting.pop_front().inspect(AbortHandle::abort);
                            // Whoever is new is read from before so many others come.
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        let server = server.clone();
                        waiting.push_back(connections.spawn(async move { server.answer_briefly(conn).await }));
                    }
                },
                // Out of descriptors, or the client has gone: neither ends the server.
                Err(error) => {
                    tracing::debug!(%error, "admin: accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Connections served at once at the Unix socket: nobody but who is trusted can connect there.
const SOCKET_PLACES: usize = 8;
/// Connections beside the places; `/live` and `/ready` are answered there.
const MOST_WAITING: usize = 32;
/// How long one of them may take in all.
const WAITING_LIMIT: Duration = Duration::from_millis(300);
const CROWDED: &str = "too many connections\n";

/// Best effort: the kernel takes these few bytes, or the client learns less.
async fn turn_away(conn: &mut Conn) {
    let head =
        format!("HTTP/1.1 503 Service Unavailable\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", CROWDED.len());
    let _ = tokio::time::timeout(WAITING_LIMIT, conn.write_all(&[head.as_bytes(), CROWDED.as_bytes()].concat())).await;
}

struct Server {
    admin: Admin,
    probe: probe::Probe,
    probes: Mutex<health::Probes>,
    rates: Mutex<scrape::Rates>,
    history: Mutex<history::History>,
    started: Instant,
}

type Reply = Response<Full<Bytes>>;

/// What may be asked, with the methods that each path takes.
const PATHS: &str = "GET / /status.json /history.json /metrics /live /ready /health; \
                     POST /control/hold?for=10s /control/release /control/failover /control/reload";

impl Server {
    /// One request per connection: a silent client keeps its place no longer than the head's time-out.
    async fn converse(&self, conn: Conn) {
        let Ok(peer) = conn.peer() else { return };
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request, peer).await) });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.admin.options.header_timeout);
        http.keep_alive(false).half_close(true).max_buf_size(16 * 1024);
        let mut stream = TokioIo::new(conn);
        let served = http.serve_connection(&mut stream, service);
        let _ = tokio::time::timeout(self.admin.options.connection_limit, served).await;
        stream.inner_mut().shutdown();
    }

    /// With every place taken: what a load balancer asks is answered from memory, and all else is turned away.
    async fn answer_briefly(&self, conn: Conn) {
        let Ok(peer) = conn.peer() else { return };
        let asked = AtomicBool::new(false);
        let service = service_fn(|request: Request<Incoming>| async {
            asked.store(true, Ordering::Relaxed);
            let brief = matches!(request.uri().path(), "/live" | "/ready");
            Ok::<_, Infallible>(match brief {
                true => self.answer(request, peer).await,
                false => text(StatusCode::SERVICE_UNAVAILABLE, CROWDED.into()),
            })
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).keep_alive(false).half_close(true).max_buf_size(16 * 1024);
        let mut stream = TokioIo::new(conn);
        let _ = tokio::time::timeout(WAITING_LIMIT, http.serve_connection(&mut stream, service)).await;
        if !asked.load(Ordering::Relaxed) {
            turn_away(stream.inner_mut()).await;
        }
        stream.inner_mut().shutdown();
    }

    async fn answer(&self, request: Request<Incoming>, peer: Asker) -> Reply {
        let path = request.uri().path();
        if let Some(verb) = path.strip_prefix("/control/") {
            return self.command(&request, verb, peer).await;
        }
        if !matches!(path, "/" | "/status.json" | "/history.json" | "/metrics" | "/live" | "/ready" | "/health") {
            return text(StatusCode::NOT_FOUND, format!("there is no {path:?}; there are: {PATHS}\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let refusal = text(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes GET; there are: {PATHS}\n"));
            return with(refusal, header::ALLOW, "GET, HEAD");
        }
        match path {
            "/live" => text(StatusCode::OK, "ok\n".into()),
            "/ready" => self.ready(),
            "/health" => self.health().await,
            "/metrics" => {
                let view = self.observe();
                let metrics = scrape::render(&self.admin.prometheus, &view) + &(self.admin.backups)(&view.master_name);
                with(text(StatusCode::OK, metrics), header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            }
            "/status.json" => json(StatusCode::OK, &self.observe()),
            "/history.json" => json(StatusCode::OK, &self.lock_history().show(SystemTime::now(), self.observe())),
            _ => {
                let page = text(StatusCode::OK, page::DOCUMENT.to_owned());
                let page = with(page, header::CONTENT_TYPE, "text/html; charset=utf-8");
                with(page, header::CONTENT_SECURITY_POLICY, page::POLICY)
            }
        }
    }

    fn ready(&self) -> Reply {
        let (view, phase) = self.look();
        let found = self.lock_probes().probe(self.assess(&view, phase));
        let status = if found.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        text(status, format!("{}: {}\n", found.state.name(), found.why))
    }

    async fn health(&self) -> Reply {
        let probed = self.probe.run(self.admin.upstream.credentials.current(), self.admin.options.health_budget).await;
        let (view, phase) = self.look();
        let readiness = self.assess(&view, phase);
        let held = phase != Phase::Stable && readiness.ready;
        let (status, word, message) = match probed {
            _ if view.draining => (StatusCode::SERVICE_UNAVAILABLE, "error", readiness.why),
            Ok(found @ probe::Found::NotPermitted(_)) => (StatusCode::OK, "degraded", found.words()),
            Ok(found @ probe::Found::Answered) if view.credentials.is_wrong() => {
                (StatusCode::OK, "degraded", format!("{}; {}", found.words(), readiness.why))
            }
            Ok(found) => (StatusCode::OK, "ok", found.words()),
            // Every host sees the same failover: if each said 503, the load balancer would have none left.
            Err(probe::Failure::TimedOut) if held => (StatusCode::OK, "ok", readiness.why),
            Err(probe::Failure::TimedOut) => {
                let budget = self.admin.options.health_budget.as_secs_f64();
                (StatusCode::SERVICE_UNAVAILABLE, "error", format!("no answer within {budget} s"))
            }
            Err(probe::Failure::Wrong(message)) => (StatusCode::SERVICE_UNAVAILABLE, "error", message),
        };
        json(status, &serde_json::json!({ "status": word, "message": message }))
    }

    async fn command(&self, request: &Request<Incoming>, verb: &str, peer: Asker) -> Reply {
        let refuse =
            |status, message: String| json(status, &serde_json::json!({ "status": "error", "message": message }));
        if !matches!(verb, "hold" | "release" | "failover" | "reload") {
            return refuse(StatusCode::NOT_FOUND, format!("there is no command {verb:?}; there are: {PATHS}"));
        }
        if *request.method() != Method::POST {
            let refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, format!("commands take POST; there are: {PATHS}"));
            return with(refusal, header::ALLOW, "POST");
        }
        let options = &self.admin.options;
        let permitted =
            control::permit(request.headers(), peer, options.token.borrow().as_ref(), options.socket.as_ref());
        if let Err(why) = permitted {
            tracing::warn!(command = verb, %peer, "refused: {why}");
            return refuse(StatusCode::FORBIDDEN, why);
        }
        let control = match Control::parse(verb, request.uri().query()) {
            Ok(control) => control,
            Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
        };
        tracing::info!(?control, %peer, "command");
        match control::give(&self.admin.commands, control, options.control_limit).await {
            Ok(message) => json(StatusCode::OK, &serde_json::json!({ "status": "ok", "message": message })),
            // What was read is wrong, and whoever wrote it can mend it.
            Err(why) if control == Control::Reload => refuse(StatusCode::UNPROCESSABLE_ENTITY, why),
            Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    /// Everything that is known, with what `/ready` would say; does not count as a probe.
    fn observe(&self) -> View {
        let (mut view, phase) = self.look();
        view.readiness = self.lock_probes().peek(self.assess(&view, phase));
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        view.traffic = self.traffic();
        view.traffic.requests_per_second = rates.requests;
        view.traffic.bytes_per_second = rates.bytes;
        view
    }

    /// The control plane's view under the topology's own word on phase and master.
    fn look(&self) -> (View, Phase) {
        let mut view = (self.admin.view)();
        let entry = self.admin.upstream.topology.current();
        view.version = env!("CARGO_PKG_VERSION").into();
        view.pid = std::process::id();
        view.uptime_ms = millis(self.started);
        view.draining = self.admin.draining.load(Ordering::Relaxed);
        view.phase = entry.phase.name().into();
        view.reason = entry.reason.clone();
        view.outage_ms = entry.outage_since.map(millis);
        view.term = entry.term;
        let seen = view.master.take();
        view.master = entry.master.as_ref().map(|master| MasterView {
            addr: master.addr.to_string(),
            run_id: master.run_id.clone(),
            epoch: master.epoch,
            provisional: master.provisional,
            offset: seen.filter(|seen| seen.addr == master.addr.to_string()).and_then(|seen| seen.offset),
        });
        (view, entry.phase)
    }

    fn assess(&self, view: &View, phase: Phase) -> Readiness {
        let options = &self.admin.options;
        health::assess(view, phase, options.ready_grace, options.on_global_outage)
    }

    fn traffic(&self) -> Traffic {
        scrape::traffic(&self.admin.workers)
    }

    fn lock_history(&self) -> std::sync::MutexGuard<'_, history::History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_probes(&self) -> std::sync::MutexGuard<'_, health::Probes> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Once a second: rates, and the samples of histograms that nobody scraped.
    fn tick(&self) {
        let traffic = self.traffic();
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).look(Instant::now(), &traffic);
        self.lock_history().look(SystemTime::now(), &self.observe());
        self.admin.prometheus.run_upkeep();
    }
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}

fn text(status: StatusCode, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let reply = with(reply, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    let reply = with(reply, header::CACHE_CONTROL, "no-store");
    with(reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Reply {
    let body = serde_json::to_string(body).expect("plain data is representable") + "\n";
    with(text(status, body), header::CONTENT_TYPE, "application/json")
}

fn with(mut reply: Reply, name: header::HeaderName, value: &'static str) -> Reply {
    reply.headers_mut().insert(name, HeaderValue::from_static(value));
    reply
}
