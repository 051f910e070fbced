//! Under a service manager: its sockets are taken, it is told what it wants to know, and a restart refuses nobody.
//!
//! The manager is this test: it has the listening socket, and the one for notices (sd_notify(3)).

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::ProxySpec;
use switchmaster::demo::wire::Wire;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::support::proxy::{LIMIT, spec};

struct Manager {
    listener: TcpListener,
    notices: UnixDatagram,
    dir: TempDir,
    spec: ProxySpec,
}

/// What runs under it; killed when dropped.
struct Service(Child);

impl Manager {
    fn new(cluster: &Cluster) -> Manager {
        let dir = tempfile::tempdir().unwrap();
        let notices = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notices.set_nonblocking(true).unwrap();
        Manager { listener: TcpListener::bind("127.0.0.1:0").unwrap(), notices, dir, spec: spec(cluster) }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A shell puts the socket where systemd does: descriptor 3.
    fn start(&self, environment: &[(&str, &str)]) -> Service {
        let socket = OwnedFd::from(self.listener.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.arg("-c").arg("exec \"$0\" serve 3<&0 </dev/null").arg(&self.spec.binary);
        command.envs(self.spec.environment.iter().map(|(name, value)| (name, value)));
        command.env("LISTEN_FDS", "1").env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command
            .env("SWITCHMASTER_ADMIN", "off")
            .env("SWITCHMASTER_LISTEN", "127.0.0.1:0")
            .env("STATE_DIRECTORY", self.dir.path());
        command.envs(environment.iter().copied());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        Service(command.stdin(Stdio::from(socket)).stderr(log).spawn().unwrap())
    }

    /// The next notice with `text` in it.
    async fn notice(&self, text: &str) -> String {
        let heard = until(text, LIMIT, async || {
            let mut bytes = [0; 4096];
            loop {
                let length = self.notices.recv(&mut bytes).map_err(|error| error.to_string())?;
                let notice = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if notice.contains(text) {
                    return Ok(notice);
                }
            }
        });
        heard.await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Service {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    async fn ended(&mut self) {
        until("the end", LIMIT, async || match self.0.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn ask(wire: &mut Wire, request: &[&str]) -> String {
    timeout(LIMIT, wire.ask(request)).await.expect("in time").expect("a reply").to_string()
}

#[tokio::test]
async fn who_connects_during_a_restart_or_after_a_crash_waits_for_the_next_process() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let manager = Manager::new(&cluster);
    // Configured is another port: the manager's is served all the same.
    let own = [("SWITCHMASTER_WORKERS", "3")];
    let mut before = None;
    for round in 0..4 {
        let mut service = manager.start(&own);
        if let Some(waiting) = &mut before {
            assert_eq!(ask(waiting, &["INCR", "rounds"]).await, format!(":{round}"), "{}", manager.log());
        }
        let mut idle = Wire::connect(manager.addr()).await.unwrap();
        assert_eq!(ask(&mut idle, &["PING"]).await, "+PONG");
        let is_crash = round % 2 == 1;
        service.signal(if is_crash { Signal::KILL } else { Signal::TERM });
        if is_crash {
            service.ended().await;
        }
        let closed = timeout(LIMIT, idle.receive()).await.expect("in time").unwrap_err();
        assert!(is_crash || closed.kind() == std::io::ErrorKind::UnexpectedEof, "{closed}");
        // In a restart the old process still runs; it accepts nobody any more.
        before = Some(Wire::connect(manager.addr()).await.unwrap());
        service.ended().await;
    }
}

#[tokio::test]
async fn a_page_in_the_middle_of_its_requests_ends_by_itself() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let manager = Manager::new(&cluster);
    let service = manager.start(&[]);
    manager.notice("READY=1").await;
    let mut page = Wire::connect(manager.addr()).await.unwrap();
    assert_eq!(ask(&mut page, &["PING"]).await, "+PONG");
    service.signal(Signal::TERM);
    manager.notice("STOPPING=1").await;
    for number in 1..=10 {
        assert_eq!(ask(&mut page, &["INCR", "page"]).await, format!(":{number}"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_manager_is_told_when_it_serves_reloads_turns_and_ends() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let manager = Manager::new(&cluster);
    let mut service = manager.start(&[("WATCHDOG_USEC", "400000")]);
    let master = cluster.node_addr(0);
    let ready = manager.notice("READY=1").await;
    assert!(ready.contains(&format!("STATUS=following {master}, 0 sessions")), "{ready}");
    let wire = Wire::connect(manager.addr()).await.unwrap();
    manager.notice(&format!("STATUS=following {master}, 1 session\n")).await;
    drop(wire);
    for _ in 0..3 {
        manager.notice("WATCHDOG=1").await;
    }
    service.signal(Signal::HUP);
    assert!(manager.notice("RELOADING=1").await.contains("MONOTONIC_USEC="));
    manager.notice("READY=1").await;
    service.signal(Signal::TERM);
    manager.notice("STOPPING=1").await;
    service.ended().await;
}

#[tokio::test]
async fn a_start_without_a_master_counts_as_ready_and_one_that_fails_says_why() {
    let cluster = Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap();
    let mut manager = Manager::new(&cluster);
    let mut failing = manager.start(&[("SWITCHMASTER_LISTEN", "nonsense")]);
    assert!(manager.notice("STATUS=").await.contains("nonsense"));
    failing.ended().await;
    manager.spec.set("SWITCHMASTER_SENTINELS", "127.0.0.1:1");
    let _service = manager.start(&[]);
    manager.notice("STATUS=looking for the master, requests are held").await;
    manager.notice("READY=1").await;
}
