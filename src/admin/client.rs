//! The verbs that talk to a running switchmaster: `status`, `failover`, `hold`, `release`.
//!
//! They know the admin address and nothing else: what they print is what the server said.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;

use super::control::HEADER;
use super::units::{bytes, millis};
use super::view::{CredentialsState, FailoverView, State, Traffic, View};
use crate::net::Connector;
use crate::secret::Secret;

/// How long an answer may take; longer than the server waits for a command's own answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long `failover` follows what it started.
const FOLLOW: Duration = Duration::from_secs(30);
/// Between two looks of `status --watch`.
const LOOK: Duration = Duration::from_secs(1);
/// A longer answer is not from a switchmaster.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Why a verb failed.
#[derive(Debug)]
pub enum Error {
    /// The admin address could not be reached.
    Unreachable(SocketAddr, std::io::Error),
    /// What answered there is not a switchmaster, or broke off.
    Garbled(SocketAddr, String),
    /// switchmaster said no, and why.
    Refused(String),
    /// The command was accepted and nothing came of it in time.
    NothingHappened(String),
    /// The output could not be written.
    Output(std::io::Error),
}

impl Error {
    /// The process's exit code: 69, unavailable; 70 when the output could not be written.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Output(_)) { 70 } else { 69 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable(addr, error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                write!(f, "nobody listens at {addr}: is switchmaster running, and with this --admin address?")
            }
            Error::Unreachable(addr, error) => {
                write!(f, "cannot reach switchmaster at {addr}: {error}")
            }
            Error::Garbled(addr, what) => {
                write!(f, "what listens at {addr} does not answer as switchmaster does: {what}")
            }
            Error::Refused(why) => f.write_str(why),
            Error::NothingHappened(what) => f.write_str(what),
            Error::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// A running switchmaster, as the verbs reach it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its admin address.
    pub admin: SocketAddr,
    /// Its `admin_token`, which commands to another host need.
    pub token: Option<Secret>,
}

impl From<SocketAddr> for Remote {
    fn from(admin: SocketAddr) -> Remote {
        Remote { admin, token: None }
    }
}

/// How `status` prints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Show {
    /// The JSON as the server sent it.
    pub json: bool,
    /// Again each second until interrupted.
    pub watch: bool,
    /// With colours; whether standard output is a terminal is the caller's to know.
    pub colour: bool,
}

/// What it sees now.
pub async fn look(remote: &Remote) -> Result<View, Error> {
    read_view(remote.admin, &fetch(remote, Method::GET, "/status.json").await?)
}

/// Holds new requests for `for_`, from now on; a second hold takes the place of the first. Returns its words.
pub async fn order_hold(remote: &Remote, for_: Duration) -> Result<String, Error> {
    order(remote, &format!("/control/hold?for={}ms", for_.as_millis())).await
}

/// Ends a hold. Returns its words.
pub async fn order_release(remote: &Remote) -> Result<String, Error> {
    order(remote, "/control/release").await
}

async fn order(remote: &Remote, path: &str) -> Result<String, Error> {
    let answer = fetch(remote, Method::POST, path).await?;
    message(&answer).ok_or_else(|| Error::Garbled(remote.admin, "an answer without a message".into()))
}

/// Prints what the switchmaster at `remote` sees.
pub async fn status(remote: impl Into<Remote>, show: Show, out: &mut impl Write) -> Result<(), Error> {
    let remote = remote.into();
    loop {
        let text = fetch(&remote, Method::GET, "/status.json").await?;
        let view = || read_view(remote.admin, &text);
        let shown = if show.json { text.trim_end().to_string() } else { describe(&view()?, show.colour) };
        // One write, after going home and clearing what is below, does not flicker.
        let home = if show.watch && show.colour && !show.json { "\x1b[H\x1b[J" } else { "" };
        writeln!(out, "{home}{}", shown.trim_end()).and_then(|()| out.flush()).map_err(Error::Output)?;
        if !show.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Holds new requests for `for_`.
pub async fn hold(remote: impl Into<Remote>, for_: Duration, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "{}", order_hold(&remote.into(), for_).await?).map_err(Error::Output)
}

/// Ends a hold.
pub async fn release(remote: impl Into<Remote>, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "{}", order_release(&remote.into()).await?).map_err(Error::Output)
}

/// Asks for a planned failover and follows it until the sessions have another master, at most 30 s. `force` asks whatever
/// the nodes are like. What it waits for goes to `progress`.
pub async fn failover(
    remote: impl Into<Remote>,
    force: bool,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> Result<(), Error> {
    let remote = remote.into();
    let before = look(&remote).await?;
    let started = Instant::now();
    let path = if force { "/control/failover?force" } else { "/control/failover" };
    let answer = {
        let ordered = order(&remote, path);
        tokio::pin!(ordered);
        loop {
            tokio::select! {
                answer = &mut ordered => break answer?,
                () = tokio::time::sleep(LOOK) => {
                    // A terminal that went away ends no failover.
                    let _ = writeln!(progress, "{}", waiting(&look(&remote).await?));
                }
            }
        }
    };
    writeln!(out, "{answer}").map_err(Error::Output)?;
    while started.elapsed() < FOLLOW {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let view = look(&remote).await?;
        let Some(master) = view.master.as_ref().filter(|master| !master.provisional) else {
            continue;
        };
        if view.term == before.term || view.phase != "stable" {
            let asked_ms = started.elapsed().as_millis() as u64;
            if let Some(abort) = view.last_abort.filter(|abort| abort.ago_ms < asked_ms && view.phase == "stable") {
                return Err(Error::NothingHappened(gave_up(&abort.reason)));
            }
            continue;
        }
        let from = before.master.as_ref().map_or("nowhere", |master| master.addr.as_str());
        let mut line =
            format!("moved from {from} to {} in {}", master.addr, millis(started.elapsed().as_millis() as u64));
        if let Some(failover) = view.last_failover.filter(|failover| failover.to == master.addr) {
            line += &details(&failover);
        }
        return writeln!(out, "{line}").map_err(Error::Output);
    }
    Err(Error::NothingHappened(format!(
        "Sentinel accepted, but no other master was seen within {} s",
        FOLLOW.as_secs()
    )))
}

/// What a failover waits for before Sentinel is asked.
fn waiting(view: &View) -> String {
    let behind = view.replicas.iter().filter_map(|replica| Some((replica.lag_bytes?, &replica.addr)));
    match behind.max() {
        Some((lag, addr)) if lag > 0 => format!("waiting for the replicas: {addr} is {} behind", bytes(lag)),
        _ => "waiting for the Sentinels and the replicas to answer".into(),
    }
}

/// What Sentinel's reason for an abort means (Redis 7.0 sentinel.c, sentinelFailoverStateMachine).
fn gave_up(reason: &str) -> String {
    let meaning = match reason {
        "no-good-slave" => {
            "no replica can be promoted (down, lagging, or replica-priority 0): see `switchmaster status`"
        }
        "slave-timeout" => "the chosen replica did not become a master in time (failover-timeout)",
        "not-elected" => "too few Sentinels voted: see `switchmaster status`",
        _ => "see the Sentinels' logs",
    };
    format!("Sentinel gave the failover up ({reason}): {meaning}; the master stays")
}

/// The body of an answer with a good status.
async fn fetch(remote: &Remote, method: Method, path: &str) -> Result<String, Error> {
    let admin = remote.admin;
    let garbled = |what: &dyn fmt::Display| Error::Garbled(admin, what.to_string());
    let conversation = async {
        let stream = Connector::DEFAULT.connect(admin).await.map_err(|error| Error::Unreachable(admin, error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| garbled(&error))?;
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, admin.to_string()).header(HEADER, "1");
        if let Some(token) = &remote.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| garbled(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| garbled(&error))?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), LONGEST_ANSWER).collect().await.map_err(|error| garbled(&error))?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            if status.is_success() {
                return Ok(text);
            }
            Err(match message(&text) {
                Some(message) => Error::Refused(message),
                None => garbled(&format!("{status}: {}", text.lines().next().unwrap_or(""))),
            })
        };
        // The connection's own end is of no interest once the answer is here.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(garbled(&error)),
            },
        }
    };
    let patience = || Error::Garbled(admin, format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, conversation).await.unwrap_or_else(|_| Err(patience()))
}

fn read_view(admin: SocketAddr, text: &str) -> Result<View, Error> {
    serde_json::from_str(text).map_err(|error| Error::Garbled(admin, error.to_string()))
}

/// The `message` of a command's answer.
fn message(text: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(answer.get("message")?.as_str()?.to_string())
}

/// The view as text for a terminal.
pub fn describe(view: &View, colour: bool) -> String {
    let paint = |code: &str, text: &str| {
        if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    };
    let mut lines = Vec::new();
    let mut row = |title: &str, text: String| lines.push(format!("{}{text}", paint("2", &format!("{title:<10}"))));

    let code = match view.readiness.state {
        State::Ok => "1;32",
        State::Failover | State::Degraded => "1;33",
        State::Down => "1;31",
    };
    let ready = if view.readiness.ready { "ready" } else { "not ready" };
    row("state", format!("{} ({ready}) {}", paint(code, view.readiness.state.name()), view.readiness.why));
    let mut phase = view.phase.clone();
    if let Some(since) = view.since_ms {
        phase += &format!(" for {}", millis(since));
    }
    if let Some(outage) = view.outage_ms {
        phase += &format!(", outage for {}", millis(outage));
    }
    if !view.reason.is_empty() {
        phase += &format!(": {}", view.reason);
    }
    row("phase", phase);
    row(
        "master",
        match &view.master {
            Some(master) => {
                let provisional = if master.provisional { paint("33", " provisional") } else { String::new() };
                let confirmed =
                    view.confirmed_ago_ms.map_or(String::new(), |age| format!("  confirmed {} ago", millis(age)));
                format!(
                    "{} {}  epoch {}{provisional}{confirmed}",
                    view.master_name,
                    paint("1", &master.addr),
                    master.epoch
                )
            }
            None => format!("{} {}", view.master_name, paint("31", "none")),
        },
    );
    for replica in &view.replicas {
        let behind = replica.lag_bytes.map_or("lag unknown".into(), |lag| format!("{} behind", bytes(lag)));
        let link = if replica.link == "up" { replica.link.clone() } else { paint("31", &replica.link) };
        row("replica", format!("{}  {behind}  link {link}", replica.addr));
    }
    let agreement = &view.agreement;
    let agreed = format!("{} of {} agree, quorum {}", agreement.agreeing, agreement.known, agreement.quorum);
    row("sentinels", if agreement.agreeing < agreement.known { paint("33", &agreed) } else { agreed });
    for sentinel in &view.sentinels {
        let word = match (sentinel.connected, &sentinel.error, &sentinel.names) {
            (false, Some(error), _) => paint("31", error),
            (false, None, _) => paint("31", "not connected"),
            (true, _, Some(names)) => {
                let epoch = sentinel.epoch.map_or(String::new(), |epoch| format!(" epoch {epoch}"));
                let down = if sentinel.master_down { paint("31", ", which is down") } else { String::new() };
                format!("names {names}{epoch}{down}")
            }
            (true, Some(error), None) => paint("31", error),
            (true, None, None) => "names no master".into(),
        };
        let word = if sentinel.tilt { word + &paint("33", ", in TILT") } else { word };
        row("", format!("{}  {word}", sentinel.addr));
    }
    match view.credentials {
        CredentialsState::NotNeeded => {}
        CredentialsState::Configured => row("password", "configured".into()),
        CredentialsState::Learnt => row("password", "learnt from a client".into()),
        CredentialsState::Missing => row("password", paint("31", "missing: the nodes want one")),
        CredentialsState::Refused => row("password", paint("31", "refused by the nodes")),
        CredentialsState::NotPermitted => row("password", paint("31", "its user may not ask ROLE: +role +info")),
    }
    let traffic = &view.traffic;
    let Traffic { sessions, held_sessions, accepted, refused, .. } = traffic;
    row("sessions", format!("{sessions} open, {held_sessions} held, {accepted} accepted, {refused} refused"));
    let (requests, rate) = (traffic.requests_per_second, bytes(traffic.bytes_per_second as u64));
    row("traffic", format!("{requests:.0} requests/s, {rate}/s"));
    let counters = &view.counters;
    let failovers = counters.failovers_planned + counters.failovers_crash + counters.failovers_restart;
    if failovers > 0 {
        let Traffic { moved, replayed, lost, .. } = traffic;
        row(
            "failovers",
            format!("{failovers}: {moved} sessions moved, {replayed} requests replayed, {lost} replies lost"),
        );
    }
    if let Some(last) = &view.last_failover {
        let (kind, from, to, ago) = (&last.kind, &last.from, &last.to, millis(last.ago_ms));
        row("", format!("last: {kind}, {from} to {to}, {ago} ago{}", details(last)));
    }
    for warning in &view.warnings {
        lines.push(paint("31", &format!("warning: {warning}")));
    }
    lines.join("\n")
}

/// The phases of a failover, and what may be lost.
fn details(failover: &FailoverView) -> String {
    let mut each: Vec<_> = failover.phases.iter().map(|(name, duration)| format!("{name} {duration:.0} ms")).collect();
    each.extend(failover.offset_gap_bytes.map(|gap| format!("offset gap {}", bytes(gap))));
    if failover.writes_at_risk > 0 {
        each.push(format!("at most {} writes lost", failover.writes_at_risk));
    }
    if each.is_empty() { String::new() } else { format!(" ({})", each.join(", ")) }
}
