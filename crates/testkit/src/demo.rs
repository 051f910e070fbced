//! `switchmaster demo`: a real cluster to throw away, clients that check every reply, two failovers, one table.
//!
//! Whatever it starts has ended when it ends.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, ClusterSpec, ConfigFiles};
use crate::interrupt::interruption;
use crate::load::{Load, LoadSpec};
use crate::proxy::{Proxy, ProxyError, ProxySpec, next_free};
use crate::report::{ClientReport, Verdict};
use crate::server::{ClusterError, Server};
use crate::table::{Phase, Table, pause};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Leave everything running until Ctrl-C.
    pub keep: bool,
    /// Where the proxy listens; the next free port if it is taken.
    pub listen: SocketAddr,
    /// Where its metrics and its status are, the next free port if it is taken; `None`: any free port.
    pub admin: Option<SocketAddr>,
    /// Seconds of calm before and after each failover.
    pub seconds: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nobody noticed anything that Redis itself could have spared them.
    PromiseHeld,
    /// Somebody did; the table says who and what.
    PromiseBroken,
    /// The user ended it before its table.
    Interrupted,
}

/// Why there was no demo.
#[derive(Debug)]
pub enum DemoError {
    /// The servers.
    Cluster(ClusterError),
    /// The proxy.
    Proxy(ProxyError),
    /// The rest.
    Io(io::Error),
}

impl Default for DemoOptions {
    fn default() -> Self {
        DemoOptions { keep: false, listen: (Ipv4Addr::LOCALHOST, 6379).into(), admin: None, seconds: 5 }
    }
}

impl Ending {
    /// The exit code that says so.
    pub fn exit_code(self) -> u8 {
        match self {
            Ending::PromiseHeld => 0,
            Ending::PromiseBroken => 1,
            Ending::Interrupted => 130,
        }
    }
}

/// Runs the demo. Whatever it started has ended when this returns.
pub async fn run(options: DemoOptions) -> Result<Ending, DemoError> {
    let mut ending = None;
    let interrupted = interruption().map_err(io::Error::other)?;
    tokio::select! {
        outcome = tell(&options, &mut ending) => outcome?,
        () = interrupted => {}
    }
    if ending.is_none() || options.keep {
        println!("\nEnded; everything is cleaned up.");
    }
    Ok(ending.unwrap_or(Ending::Interrupted))
}

/// The whole story. Dropped at any point, it takes every process and file with it.
async fn tell(options: &DemoOptions, ending: &mut Option<Ending>) -> Result<(), DemoError> {
    println!(
        "Starting 1 master, 2 replicas and 3 Sentinels, with a password, on free ports of 127.0.1.1 to 127.0.1.3 ..."
    );
    let password = crate::random::hex(16);
    let cluster = Cluster::start(ClusterSpec {
        sentinel_password: Some(password.clone()),
        // As we tell people to run it, but for the time that they would wait to see it.
        files: Some(ConfigFiles::DEPLOYED),
        sentinel_config: vec![
            "sentinel down-after-milliseconds mymaster 1000".into(),
            // An attempt that fails, as elections can, is repeated after twice this time.
            "sentinel failover-timeout mymaster 3000".into(),
        ],
        ..ClusterSpec::with_password(&password)
    })
    .await?;
    let listen = next_free(options.listen)?;
    if listen != options.listen {
        println!("{} is taken: the proxy listens on {listen} instead.", options.listen);
    }
    let admin = options.admin.map(next_free).transpose()?;
    let proxy = ProxySpec { listen: Some(listen), admin, ..ProxySpec::of(&cluster, std::env::current_exe()?) };
    let proxy = Proxy::start(&proxy).await?;
    println!(
        "Proxy: {}   metrics: http://{}/metrics   Sentinels: ports {}",
        proxy.addr(),
        proxy.admin(),
        ports(&cluster.sentinel_addrs())
    );

    let table = two_failovers(options, &cluster, &proxy).await?;
    let held = table.kept_its_promise();
    println!("\n{table}");
    println!("{}", conclusion(&table));
    *ending = Some(if held { Ending::PromiseHeld } else { Ending::PromiseBroken });
    if !held {
        let log = proxy.log();
        let lines: Vec<&str> = log.lines().collect();
        println!("The proxy's last lines:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
    }
    if options.keep { play(&cluster, &proxy, &password).await } else { Ok(()) }
}

async fn two_failovers(options: &DemoOptions, cluster: &Cluster, proxy: &Proxy) -> Result<Table, DemoError> {
    let calm = Duration::from_secs(options.seconds);
    let limit = Duration::from_secs(30);
    let spec =
        LoadSpec { writers: 20, readers: 10, counters: 2, rate: 200.0, auth: cluster.auth(), ..LoadSpec::none() };
    println!("Clients: {} writers, {} readers, {} counters; each keeps its one connection.\n", 20, 10, 2);
    let load = Load::start(proxy.addr(), spec)?;
    load.wait_until_served(limit).await?;
    let live = Live::new(cluster, &load);

    let began = Instant::now();
    live.show_while("calm", began, tokio::time::sleep(calm)).await;
    let old = live.show_while("calm", began, master(cluster, limit)).await?;
    let calm_verdict = load.verify(cluster.node_addr(old)).await?;

    let failover = phase_boundary().await;
    live.say(&format!("Planned: SENTINEL FAILOVER {}", cluster.master_name()));
    let new = async {
        cluster.failover(limit).await?;
        let new = cluster.wait_for_master_change(old, limit).await?;
        tokio::time::sleep(calm).await;
        // It goes on as a master for some 10 s, which is where others lose writes.
        live.say("Until Sentinel has made the old master a replica ...");
        cluster.wait_ready(limit).await?;
        Ok::<_, ClusterError>(new)
    };
    let new = live.show_while("planned failover", failover, new).await?;
    let planned_verdict = load.verify(cluster.node_addr(new)).await?;

    let crash = phase_boundary().await;
    live.say(&format!("Crash: kill -9 of the master {}", cluster.node_addr(new)));
    cluster.node(new).kill9();
    let last = async {
        let last = cluster.wait_for_master_change(new, limit).await?;
        tokio::time::sleep(calm).await;
        Ok::<_, ClusterError>(last)
    };
    let last = live.show_while("kill -9", crash, last).await?;
    let ended = Instant::now();
    live.end();
    // A client that still waits for a reply by then has been forgotten.
    let forgotten = load.stop(Duration::from_secs(5)).await.is_err();
    let total = load.verify(cluster.node_addr(last)).await?;
    let missing = total.missing.saturating_sub(planned_verdict.missing);
    let examples = if missing == 0 { Vec::new() } else { total.examples };
    let crash_verdict = Verdict { missing, examples, ..total };
    let phase = |name, from, to, verdict, crash| Phase { name, report: load.report_between(from, to), verdict, crash };
    let mut phases = vec![
        phase("calm", began, failover, calm_verdict, false),
        phase("planned failover", failover, crash, planned_verdict, false),
        phase("kill -9 of the master", crash, ended, crash_verdict, true),
    ];
    for phase in phases.iter_mut().filter(|_| forgotten) {
        let open = |client: &&ClientReport| client.longest.is_some_and(|stall| stall.open);
        phase.report.hung += phase.report.clients.iter().filter(open).count() as u64;
    }
    Ok(Table(phases))
}

fn conclusion(table: &Table) -> String {
    let mut text = if table.kept_its_promise() {
        "The promise held: no client lost its connection or saw an error".to_owned()
    } else {
        return "The promise did NOT hold; see above.".to_owned();
    };
    let crash = table.0.iter().find(|phase| phase.crash);
    let lost = crash.map_or(0, Phase::lost_replies);
    text += match lost {
        0 => ".",
        _ => ", except for writes under way when the master died: their fate is unknown, and they are told so.",
    };
    if let Some(missing) = crash.map(|phase| phase.verdict.missing).filter(|&missing| missing > 0) {
        text += &format!(
            "\n{missing} writes that the dying master had acknowledged had not reached a replica: \
             Redis replicates asynchronously, and no proxy can undo that."
        );
    }
    text
}

/// `--keep`: a light load for the user to play with, until Ctrl-C.
async fn play(cluster: &Cluster, proxy: &Proxy, password: &str) -> Result<(), DemoError> {
    for node in cluster.nodes().iter().filter(|node| !node.is_running()) {
        node.restart().await?;
    }
    let sentinel = cluster.sentinel_addr(0);
    let sentinel = format!("redis-cli -h {} -p {} -a {password} SENTINEL", sentinel.ip(), sentinel.port());
    println!("\nAll of it keeps running until Ctrl-C. A node that you kill comes back after 10 s.");
    println!("  the proxy     redis-cli -h 127.0.0.1 -p {} -a {password}", proxy.addr().port());
    println!("  its log       tail -f {}", proxy.log_path().display());
    println!("  who is master {sentinel} GET-MASTER-ADDR-BY-NAME {}", cluster.master_name());
    println!("  fail over     {sentinel} FAILOVER {}", cluster.master_name());
    for node in cluster.nodes() {
        println!("  {:<13} {}   kill -9 {}", node.name(), node.addr(), pid(node));
    }
    println!();
    let spec = LoadSpec {
        writers: 4,
        readers: 4,
        rate: 25.0,
        auth: cluster.auth(),
        time_limit: Duration::from_secs(24 * 3600),
        ..LoadSpec::none()
    };
    let load = Load::start(proxy.addr(), spec)?;
    let live = Live::new(cluster, &load);
    let revive = async {
        let mut seen_running = vec![Instant::now(); cluster.nodes().len()];
        loop {
            for (node, seen) in cluster.nodes().iter().zip(&mut seen_running) {
                if node.is_running() {
                    *seen = Instant::now();
                } else if seen.elapsed() > Duration::from_secs(10) {
                    node.restart().await?;
                    live.say(&format!("{} is back, kill -9 {}", node.name(), pid(node)));
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    live.show_while("playing", Instant::now(), revive).await
}

fn pid(node: &Server) -> i32 {
    node.pid().map_or(0, |pid| pid.as_raw_nonzero().get())
}

/// Requests under way belong to the phase in which they were sent: the next one starts a little before its deed.
async fn phase_boundary() -> Instant {
    let boundary = Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    boundary
}

async fn master(cluster: &Cluster, limit: Duration) -> Result<usize, ClusterError> {
    crate::cluster::until("a master", limit, async || cluster.who_is_master().await).await
}

fn ports(addrs: &[SocketAddr]) -> String {
    let ports: Vec<String> = addrs.iter().map(|addr| addr.port().to_string()).collect();
    ports.join(", ")
}

/// The live line: redrawn in place on a terminal, else a new line every few seconds.
struct Live<'a> {
    cluster: &'a Cluster,
    load: &'a Load,
    terminal: bool,
}

impl<'a> Live<'a> {
    fn new(cluster: &'a Cluster, load: &'a Load) -> Live<'a> {
        Live { cluster, load, terminal: io::stdout().is_terminal() }
    }

    async fn show_while<T>(&self, phase: &str, since: Instant, work: impl Future<Output = T>) -> T {
        let period = Duration::from_millis(if self.terminal { 250 } else { 2_000 });
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        let mut work = std::pin::pin!(work);
        let mut before = (Instant::now(), self.load.answered());
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => before = self.draw(phase, since, before).await,
            }
        }
    }

    async fn draw(&self, phase: &str, since: Instant, before: (Instant, u64)) -> (Instant, u64) {
        let report = self.load.report_since(since);
        let now = (Instant::now(), self.load.answered());
        let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64();
        let master = match self.cluster.who_is_master().await {
            Ok(index) => self.cluster.node_addr(index).to_string(),
            Err(_) => "none".into(),
        };
        let line = format!(
            "{phase:<18} {rate:>6.0} ops/s   errors {:<4} lost connections {:<3} longest pause {:<8} master {master}",
            report.error_count(),
            report.connections_lost,
            pause(report.longest_pause()),
        );
        if self.terminal {
            print!("\r\x1b[2K{line}");
            let _ = io::stdout().flush();
        } else {
            println!("{line}");
        }
        now
    }

    /// A line of text that stays.
    fn say(&self, text: &str) {
        self.end();
        println!("{text}");
    }

    fn end(&self) {
        if self.terminal {
            println!();
        }
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DemoError::Cluster(error) => error.fmt(f),
            DemoError::Proxy(error) => error.fmt(f),
            DemoError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DemoError {}

impl From<ClusterError> for DemoError {
    fn from(error: ClusterError) -> Self {
        DemoError::Cluster(error)
    }
}

impl From<ProxyError> for DemoError {
    fn from(error: ProxyError) -> Self {
        DemoError::Proxy(error)
    }
}

impl From<io::Error> for DemoError {
    fn from(error: io::Error) -> Self {
        DemoError::Io(error)
    }
}
