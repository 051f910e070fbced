//! The verbs that talk to a running switchmaster: `status`, `wait`, `failover`, `hold`, `release`, `reload`.
//!
//! They know the admin address and nothing else: what they print is what the server said.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::control::Control;
use crate::duration::rounded as millis;
use crate::remote::{self, Remote};
use crate::size::rounded as bytes;
use crate::status::{CredentialsState, FailoverView, Readiness, State, Traffic, View};

/// How long `failover` follows what it started.
const FOLLOW: Duration = Duration::from_secs(30);
/// Between two looks of `status --watch`.
const LOOK: Duration = Duration::from_secs(1);
/// Between two questions of `wait`.
const ASK: Duration = Duration::from_millis(200);

/// Why a verb failed.
#[derive(Debug)]
pub enum Error {
    /// The switchmaster could not be asked, or refused.
    Remote(remote::Error),
    /// The command was accepted and nothing came of it in time.
    NothingHappened(String),
    /// It is not ready, or was not in time; why.
    NotReady(String),
    /// The output could not be written.
    Output(std::io::Error),
}

impl Error {
    /// The process's exit code: 69, unavailable; 64 for a wrong configuration, 70 when the output could not be written.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Remote(remote::Error::Misconfigured(_)) => 64,
            Error::Output(_) => 70,
            _ => 69,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Remote(error) => error.fmt(f),
            Error::NothingHappened(what) | Error::NotReady(what) => f.write_str(what),
            Error::Output(error) => write!(f, "cannot write: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<remote::Error> for Error {
    fn from(error: remote::Error) -> Error {
        Error::Remote(error)
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

/// Prints what the switchmaster at `remote` sees; returns whether it is ready.
pub async fn status(remote: impl Into<Remote>, show: Show, out: &mut impl Write) -> Result<Readiness, Error> {
    let remote = remote.into();
    loop {
        let text = remote.status().await?;
        let view = remote.read(&text)?;
        let shown = if show.json { text.trim_end().to_string() } else { describe(&view, show.colour) };
        // One write, after going home and clearing what is below, does not flicker.
        let home = if show.watch && show.colour && !show.json { "\x1b[H\x1b[J" } else { "" };
        writeln!(out, "{home}{}", shown.trim_end()).and_then(|()| out.flush()).map_err(Error::Output)?;
        if !show.watch {
            return Ok(view.readiness);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Returns once the switchmaster at `remote` is ready, or after `limit` with what was still missing; it is asked at least
/// once. Nobody need listen there yet.
pub async fn wait(remote: impl Into<Remote>, limit: Duration, out: &mut impl Write) -> Result<(), Error> {
    let remote = remote.into();
    let deadline = Instant::now() + limit;
    loop {
        // One that is stopped takes connections and says nothing.
        let patience = deadline.saturating_duration_since(Instant::now()).max(LOOK);
        let missing = match tokio::time::timeout(patience, remote.ready()).await {
            Ok(Ok((true, why))) => return writeln!(out, "{why}").map_err(Error::Output),
            Ok(Ok((false, why))) => why,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("switchmaster at {} does not answer", remote.admin),
        };
        if Instant::now() + ASK > deadline {
            return Err(Error::NotReady(format!("not ready within {}: {missing}", millis(limit.as_millis() as u64))));
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Holds new requests for `for_`.
pub async fn hold(remote: impl Into<Remote>, for_: Duration, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "{}", remote.into().order(&Control::Hold { for_ }).await?).map_err(Error::Output)
}

/// Ends a hold.
pub async fn release(remote: impl Into<Remote>, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "{}", remote.into().order(&Control::Release).await?).map_err(Error::Output)
}

/// Has the configuration read again, and prints what that has changed.
pub async fn reload(remote: impl Into<Remote>, out: &mut impl Write) -> Result<(), Error> {
    writeln!(out, "{}", remote.into().order(&Control::Reload).await?).map_err(Error::Output)
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
    let before = remote.look().await?;
    let started = Instant::now();
    let control = Control::Failover { force };
    let answer = {
        let ordered = remote.order(&control);
        tokio::pin!(ordered);
        loop {
            tokio::select! {
                answer = &mut ordered => break answer?,
                () = tokio::time::sleep(LOOK) => {
                    // A terminal that went away ends no failover.
                    let _ = writeln!(progress, "{}", waiting(&remote.look().await?));
                }
            }
        }
    };
    writeln!(out, "{answer}").map_err(Error::Output)?;
    while started.elapsed() < FOLLOW {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let view = remote.look().await?;
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
    let failovers = counters.failovers();
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
