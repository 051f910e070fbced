//! The admin server, asked over HTTP as load balancers, Prometheus, operators and hostile web pages ask it.
//!
//! What it shows comes from a made-up view: that the view is true is tested where the view is made.

mod refusals;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use switchmaster::admin::{self, Admin, Options};
use switchmaster::backup;
use switchmaster::backup::report::{self, Record, Records};
use switchmaster::close_reason::CloseReason;
use switchmaster::control::{Control, ControlRequest};
use switchmaster::metrics::{self, WorkerCounters};
use switchmaster::net::{self, ListenAddr, SocketFile};
use switchmaster::remote::Remote;
use switchmaster::secret::{Credentials, Secret};
use switchmaster::status::{AbortView, Agreement, FailoverView, ReplicaView, SentinelView, View};
use switchmaster::topology::{Master, Phase};
use switchmaster::upstream::Upstream;
use switchmaster::verbs as client;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const TOKEN: &str = "correct horse battery staple";

/// A running admin server and the strings it hangs on. Commands over TCP need [`TOKEN`].
struct Fixture {
    addr: SocketAddr,
    dir: TempDir,
    _file: SocketFile,
    upstream: Arc<Upstream>,
    counters: Arc<WorkerCounters>,
    view: Arc<Mutex<View>>,
    draining: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Control>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|task| task.abort());
    }
}

impl Fixture {
    async fn start() -> Fixture {
        Fixture::with(Options::default(), "127.0.0.1:1".parse().unwrap(), None).await
    }

    async fn with(options: Options, proxy: SocketAddr, credentials: Option<Credentials>) -> Fixture {
        let (upstream, _reports) = Upstream::new(Some("mymaster"), credentials.as_ref(), true);
        let counters = Arc::new(WorkerCounters::default());
        let view = Arc::new(Mutex::new(healthy_view()));
        let draining = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (commands, mut orders) = mpsc::channel::<ControlRequest>(4);
        let bound = net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let ListenAddr::Tcp(addr) = bound.addr().unwrap() else { unreachable!("bound to TCP") };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let (mut unix, file) = net::bind_unix(&path, 0o600, None, 1).unwrap();
        let options = Options {
            token: watch::channel(Some(Secret::new(TOKEN))).1,
            socket: Some(admin::Socket { path, group: None }),
            ..options
        };
        let source = view.clone();
        let server = Admin {
            upstream: upstream.clone(),
            workers: Arc::from([counters.clone()]),
            view: Arc::new(move || source.lock().unwrap().clone()),
            backups: Arc::new(|name| report::exposition(&Records::from([(name.into(), Record::default())]))),
            commands,
            draining: draining.clone(),
            prometheus: metrics::install(),
            proxy: watch::channel(ListenAddr::Tcp(proxy)).1,
            options,
        };
        let book = taken.clone();
        let control = tokio::spawn(async move {
            while let Some((control, answer)) = orders.recv().await {
                book.lock().unwrap().push(control);
                let _ = answer.send(match control {
                    Control::Release => Err("nothing is held".into()),
                    _ => Ok(format!("done: {control:?}")),
                });
            }
        });
        let listeners = vec![bound.listen().unwrap(), unix.remove(0).listen().unwrap()];
        let tasks = vec![tokio::spawn(admin::serve(server, listeners)), control];
        let fixture = Fixture { addr, dir, _file: file, upstream, counters, view, draining, taken, tasks };
        fixture.publish(Phase::Stable, "10.0.0.1:6379");
        fixture
    }

    /// The topology moves to this phase and master.
    fn publish(&self, phase: Phase, master: &str) {
        let mut entry = (*self.upstream.topology.current()).clone();
        entry.phase = phase;
        entry.outage_since = (phase != Phase::Stable).then(Instant::now);
        entry.reason = if phase == Phase::Stable { String::new() } else { "the test said so".into() };
        entry.term += 1;
        entry.master = Some(Master {
            addr: master.parse().unwrap(),
            run_id: Some(format!("run-of-{master}")),
            epoch: entry.term,
            provisional: false,
        });
        self.upstream.topology.publish(entry).unwrap();
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr)).await
    }

    async fn post(&self, path: &str, headers: &str) -> Answer {
        self.ask(&format!("POST {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n")).await
    }

    /// Sends these very bytes.
    async fn ask(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        Answer::read(&mut stream).await
    }

    /// What a command over TCP has in its head.
    fn permitted(&self) -> String {
        format!("Host: {}\r\nX-Switchmaster: 1\r\nAuthorization: Bearer {TOKEN}\r\n", self.addr)
    }

    /// As those who have the token reach it.
    fn over_tcp(&self) -> Remote {
        Remote { token: Some(Secret::new(TOKEN)), ..self.addr.into() }
    }

    /// As its own user reaches it.
    fn at_the_socket(&self) -> Remote {
        self.dir.path().join("admin.sock").into()
    }

    fn commands(&self) -> Vec<Control> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// Reads until the server closes, as it does after each answer.
    async fn read(stream: &mut TcpStream) -> Answer {
        let mut text = String::new();
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut text)).await.unwrap().unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_ascii_lowercase(), body: body.into() }
    }
}

fn healthy_view() -> View {
    let sentinel = |n: u16| SentinelView {
        addr: format!("10.0.0.{n}:26379"),
        connected: true,
        answer_ago_ms: Some(120),
        epoch: Some(7),
        names: Some("10.0.0.1:6379".into()),
        ..SentinelView::default()
    };
    View {
        master_name: "mymaster".into(),
        confirmed_ago_ms: Some(80),
        replicas: vec![ReplicaView {
            addr: "10.0.0.2:6379".into(),
            offset: Some(1000),
            lag_bytes: Some(2048),
            lag_seconds: Some(0.0),
            link: "up".into(),
        }],
        sentinels: vec![sentinel(1), sentinel(2), sentinel(3)],
        agreement: Agreement { agreeing: 3, known: 3, quorum: 2 },
        warnings: vec!["replica <10.0.0.2> has no requirepass".into()],
        ..View::default()
    }
}

#[tokio::test]
async fn every_route_answers_and_head_answers_without_a_body() {
    let fixture = Fixture::start().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/status.json", "application/json"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/live", "text/plain"),
        ("/ready", "text/plain"),
    ] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{path}: {}", answer.head);
        assert!(!answer.body.is_empty(), "{path}");
        let head = fixture.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains("content-length: "), "{path}: {}", head.head);
    }
}

#[tokio::test]
async fn what_does_not_exist_is_told_with_what_does() {
    let fixture = Fixture::start().await;
    let answer = fixture.get("/metric").await;
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("/metrics") && answer.body.contains("/control/failover"), "{}", answer.body);
    let answer = fixture.post("/metrics", "Host: x\r\n").await;
    assert_eq!(answer.status, 405);
    assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    assert_eq!(fixture.get("/control/hold?for=1s").await.status, 405);
    assert_eq!(fixture.get("/control/explode").await.status, 404);
    assert_eq!(fixture.ask("nonsense\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn every_metric_is_shown_with_help_and_type_from_the_first_scrape() {
    let fixture = Fixture::start().await;
    fixture.counters.accepted.add(3);
    fixture.counters.close(CloseReason::UpstreamClosed);
    let text = fixture.get("/metrics").await.body;
    for (name, kind, help) in metrics::ALL.iter().chain(backup::metrics::ALL) {
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "no help for {name}");
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "no type for {name}");
        let samples = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or("!");
            ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| rest.strip_prefix(suffix).is_some_and(|rest| rest.starts_with([' ', '{'])))
        });
        assert!(samples.count() > 0, "no sample of {name}");
    }
    let mut seen = std::collections::HashSet::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect(line);
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        assert!(seen.insert(series.to_string()), "{series} twice");
        let name = series.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().fold(name, |name, suffix| name.trim_end_matches(suffix));
        assert!(
            metrics::ALL.iter().chain(backup::metrics::ALL).any(|(listed, ..)| *listed == base),
            "{name} is not listed"
        );
    }
    assert!(text.contains("switchmaster_sessions_closed_total{reason=\"upstream_closed\",master=\"mymaster\"} "));
    assert!(
        text.contains("switchmaster_failover_phase_seconds_bucket{phase=\"hold\",master=\"mymaster\",le=\"0.005\"} ")
    );
    #[cfg(target_os = "linux")]
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?}");
    }
}

#[tokio::test]
async fn a_past_master_disappears_from_the_metrics() {
    let fixture = Fixture::start().await;
    let infos = |text: &str| text.lines().filter(|line| line.starts_with("switchmaster_master_info{")).count();
    let before = fixture.get("/metrics").await.body;
    assert!(
        before.contains("switchmaster_master_info{addr=\"10.0.0.1:6379\",run_id=\"run-of-10.0.0.1:6379\",epoch=\"1\"")
    );
    fixture.publish(Phase::Stable, "10.0.0.2:6379");
    let after = fixture.get("/metrics").await.body;
    assert!(after.contains("addr=\"10.0.0.2:6379\"") && !after.contains("addr=\"10.0.0.1:6379\""));
    assert_eq!((infos(&before), infos(&after)), (1, 1));
}

#[tokio::test]
async fn readiness_lasts_through_a_failover_and_comes_back_after_two_good_probes() {
    let fixture = Fixture::start().await;
    assert!(fixture.get("/ready").await.body.starts_with("ok: "));
    fixture.publish(Phase::Switching, "10.0.0.1:6379");
    let answer = fixture.get("/ready").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("failover: ") && answer.body.contains("the test said so"), "{}", answer.body);

    fixture.publish(Phase::Failing, "10.0.0.1:6379");
    let answer = fixture.get("/ready").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("down: "), "{}", answer.body);

    fixture.publish(Phase::Stable, "10.0.0.2:6379");
    // Looking at the page or at the metrics is not probing.
    assert!(fixture.get("/status.json").await.body.contains("\"ready\":false"));
    assert_eq!(fixture.get("/ready").await.status, 503);
    assert_eq!(fixture.get("/ready").await.status, 200);

    fixture.draining.store(true, Ordering::Relaxed);
    let answer = fixture.get("/ready").await;
    assert_eq!((answer.status, answer.body.starts_with("down: draining")), (503, true), "{}", answer.body);
    assert_eq!(fixture.get("/live").await.status, 200);
}

#[tokio::test]
async fn commands_reach_the_control_plane_and_its_answer_comes_back() {
    let fixture = Fixture::start().await;
    let good = fixture.permitted();
    let answer = fixture.post("/control/hold?for=1500ms", &good).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(json["status"], "ok");
    assert_eq!(fixture.post("/control/failover", &good).await.status, 200);
    let answer = fixture.post("/control/release", &good).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("nothing is held"), "{}", answer.body);
    let hold = Control::Hold { for_: Duration::from_millis(1500) };
    assert_eq!(fixture.commands(), [hold, Control::Failover { force: false }, Control::Release]);

    for path in ["/control/hold", "/control/hold?for=ever", "/control/hold?for=1000s"] {
        let answer = fixture.post(path, &good).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains("\"status\":\"error\""), "{}", answer.body);
    }
    assert_eq!(fixture.commands(), []);
}

#[tokio::test]
async fn slow_clients_lose_their_place_and_one_too_many_is_told() {
    let options = Options { max_connections: 2, header_timeout: Duration::from_millis(600), ..Options::default() };
    let fixture = Fixture::with(options, "127.0.0.1:1".parse().unwrap(), None).await;
    let opened = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nX-Sl").await.unwrap();
        slow.push(stream);
    }
    let mut third = TcpStream::connect(fixture.addr).await.unwrap();
    let answer = Answer::read(&mut third).await;
    assert_eq!((answer.status, answer.body.trim()), (503, "too many connections"));
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert!(opened.elapsed() >= Duration::from_millis(500), "cut after {:?}", opened.elapsed());
    // A place is free again, though perhaps not in the same instant.
    for _ in 0..100 {
        if fixture.get("/live").await.status == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the places never came back");
}

#[tokio::test]
async fn live_and_ready_are_answered_however_many_half_requests_and_slow_ones_there_are() {
    // Every place is taken by a check that waits, and more half requests than there is room for come all the time.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options { health_budget: Duration::from_secs(300), ..Options::default() };
    let fixture = Fixture::with(options, silent.local_addr().unwrap(), None).await;
    let addr = fixture.addr;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        held.push(stream);
    }
    let (mut floods, opened) = (tokio::task::JoinSet::new(), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    for flood in 0..4 {
        let opened = opened.clone();
        floods.spawn(async move {
            let mut half = std::collections::VecDeque::new();
            loop {
                let Ok(mut stream) = TcpStream::connect(addr).await else { continue };
                let head: &[u8] = match flood {
                    0 => b"",
                    1 => b"GET /live HTTP/1.1\r\nX-Sl",
                    2 => b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                    _ => &[b'x'; 20_000],
                };
                let _ = stream.write_all(head).await;
                opened.fetch_add(1, Ordering::Relaxed);
                half.push_back(stream);
                if half.len() > 100 {
                    half.pop_front();
                }
            }
        });
    }
    for round in 0..20 {
        for path in ["/live", "/ready"] {
            let answer = tokio::time::timeout(Duration::from_secs(30), fixture.get(path)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{round} {path}: {answer:?}");
        }
    }
    let answer = fixture.get("/metrics").await;
    assert_eq!((answer.status, answer.body.trim()), (503, "too many connections"));
    println!("beside {} others", opened.load(Ordering::Relaxed));
}

#[tokio::test]
async fn health_tells_a_failover_from_a_fault() {
    // Accepts and stays silent, as the proxy does while it holds requests.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options { health_budget: Duration::from_millis(200), ..Options::default() };
    let fixture = Fixture::with(options, silent.local_addr().unwrap(), None).await;
    let answer = fixture.get("/health").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body.trim(), r#"{"message":"no answer within 0.2 s","status":"error"}"#);
    fixture.publish(Phase::Switching, "10.0.0.1:6379");
    let answer = fixture.get("/health").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("a failover is in progress"), "{}", answer.body);

    drop(silent);
    let answer = fixture.get("/health").await;
    assert_eq!(answer.status, 503, "nobody listens: {}", answer.body);
}

/// A real redis-server with a password; `None`, told on standard error, where it is not installed.
async fn redis(password: &str) -> Option<(SocketAddr, tokio::process::Child)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spawned = tokio::process::Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", "", "--requirepass", password, "--bind", "127.0.0.1"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(child) = spawned else {
        assert!(std::env::var_os("CI").is_none(), "redis-server is not installed");
        eprintln!("NOT TESTED: redis-server is not installed");
        return None;
    };
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..500 {
        if TcpStream::connect(addr).await.is_ok() {
            return Some((addr, child));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("redis-server did not start");
}

#[tokio::test]
async fn health_writes_and_reads_a_key_that_expires() {
    let Some((addr, _child)) = redis("s3cret").await else { return };
    let credentials = Credentials { username: None, password: Secret::new("s3cret") };
    let fixture = Fixture::with(Options::default(), addr, Some(credentials)).await;
    for _ in 0..2 {
        let answer = fixture.get("/health").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("\"status\":\"ok\""), "{}", answer.body);
    }
    let mut stream = BufReader::new(TcpStream::connect(addr).await.unwrap());
    stream.write_all(b"AUTH s3cret\r\nKEYS *\r\n").await.unwrap();
    let mut lines = Vec::new();
    for _ in 0..4 {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        lines.push(line.trim().to_string());
    }
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("+OK", "*1"));
    assert!(lines[3].starts_with("switchmaster:health:"), "{lines:?}");
    stream.write_all(format!("PTTL {}\r\n", lines[3]).as_bytes()).await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let left: i64 = line.trim().trim_start_matches(':').parse().unwrap();
    assert!((1..=10_000).contains(&left), "{left}");

    let without = Fixture::with(Options::default(), addr, None).await;
    let answer = without.get("/health").await;
    assert_eq!(answer.status, 200, "the first client may bring the credentials");
    assert!(answer.body.contains("without credentials nothing was written"), "{}", answer.body);
    stream.write_all(b"ACL SETUSER app on >hunter2 ~app:* -@all +ping +set +get\r\n").await.unwrap();
    stream.read_line(&mut line).await.unwrap();
    let app = Credentials { username: Some("app".into()), password: Secret::new("hunter2") };
    let limited = Fixture::with(Options::default(), addr, Some(app)).await;
    let answer = limited.get("/health").await;
    assert_eq!(answer.status, 200, "an ACL rule is no fault of this host: {}", answer.body);
    assert!(answer.body.contains("degraded") && answer.body.contains("~switchmaster:health:*"), "{}", answer.body);
    let wrong = Credentials { username: Some("nobody".into()), password: Secret::new("wr0ng") };
    let wrong = Fixture::with(Options::default(), addr, Some(wrong)).await;
    let answer = wrong.get("/health").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("WRONGPASS") && !answer.body.contains("wr0ng"), "{}", answer.body);
}

#[tokio::test]
async fn the_page_shows_what_is_there_and_loads_nothing_else() {
    let fixture = Fixture::start().await;
    let answer = fixture.get("/").await;
    for outside in ["<img", "https://", "url(", "src="] {
        assert!(!answer.body.contains(outside), "{outside} on the page");
    }
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    let recent = fixture.over_tcp().recent().await.unwrap();
    assert_eq!(recent.view.master.unwrap().addr, "10.0.0.1:6379");
    assert_eq!(recent.view.warnings, ["replica <10.0.0.2> has no requirepass"]);
    assert!(!recent.samples.is_empty(), "a sample a second");
}

#[tokio::test]
async fn the_status_verb_prints_what_the_server_sees() {
    let fixture = Fixture::start().await;
    fixture.counters.accepted.add(5);
    fixture.counters.closed.add(2);
    fixture.view.lock().unwrap().last_failover = Some(FailoverView {
        kind: "planned".into(),
        from: "10.0.0.2:6379".into(),
        to: "10.0.0.1:6379".into(),
        ago_ms: 65_000,
        phases: vec![("hold".into(), 82.4), ("promotion".into(), 61.0)],
        ..FailoverView::default()
    });
    let mut out = Vec::new();
    client::status(fixture.addr, client::Show::default(), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    for part in [
        "state     ok (ready)",
        "mymaster 10.0.0.1:6379  epoch 1  confirmed 80 ms ago",
        "10.0.0.2:6379  2.0 KiB behind  link up",
        "3 of 3 agree, quorum 2",
        "3 open, 0 held, 5 accepted, 0 refused",
        "last: planned, 10.0.0.2:6379 to 10.0.0.1:6379, 1 min 5 s ago (hold 82 ms, promotion 61 ms)",
        "warning: replica <10.0.0.2> has no requirepass",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\x1b'), "colour without a terminal");

    let mut out = Vec::new();
    let show = client::Show { json: true, ..client::Show::default() };
    client::status(fixture.addr, show, &mut out).await.unwrap();
    let view: View = serde_json::from_slice(&out).unwrap();
    assert_eq!((view.traffic.sessions, view.sentinels.len(), view.term), (3, 3, 1));
}

#[tokio::test]
async fn the_other_verbs_give_commands_and_say_what_came_of_them() {
    let fixture = Fixture::start().await;
    let mut out = Vec::new();
    client::hold(fixture.over_tcp(), Duration::from_secs(10), &mut out).await.unwrap();
    assert!(String::from_utf8(out).unwrap().starts_with("done: Hold"));
    let error = client::release(fixture.at_the_socket(), &mut Vec::new()).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("nothing is held", 69));

    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let (moved, ()) = tokio::join!(client::failover(fixture.at_the_socket(), false, &mut out, &mut progress), async {
        while !fixture.taken.lock().unwrap().contains(&Control::Failover { force: false }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.publish(Phase::Stable, "10.0.0.2:6379");
    });
    moved.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("moved from 10.0.0.1:6379 to 10.0.0.2:6379 in "), "{text}");
}

#[tokio::test]
async fn a_failover_that_sentinel_gives_up_is_told_at_once() {
    let fixture = Fixture::start().await;
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let (moved, ()) = tokio::join!(client::failover(fixture.at_the_socket(), false, &mut out, &mut progress), async {
        while !fixture.taken.lock().unwrap().contains(&Control::Failover { force: false }) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.view.lock().unwrap().last_abort = Some(AbortView { reason: "no-good-slave".into(), ago_ms: 0 });
    });
    let error = moved.unwrap_err();
    assert!(error.to_string().contains("no replica can be promoted"), "{error}");
    assert_eq!(error.exit_code(), 69);
}

#[tokio::test]
async fn the_verbs_say_when_nobody_or_somebody_else_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut some = [0; 64];
        let _ = stream.read(&mut some).await;
        let _ = stream.write_all(b"-ERR unknown command 'GET'\r\n").await;
    });
    let error = client::status(addr, client::Show::default(), &mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("does not answer as switchmaster does"), "{error}");
    other.await.unwrap();
    let error = client::status(addr, client::Show::default(), &mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("nobody listens at {addr}: is switchmaster running")), "{error}");
    assert_eq!(error.exit_code(), 69);
}
