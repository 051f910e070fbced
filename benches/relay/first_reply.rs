//! A new client's time to its first reply from a server that is far away, in round trips.
//!
//! Two network namespaces, and between them a relay of Ethernet frames that delays each (`far.py`): handshakes take
//! their time as they do between data centres. The client and the proxy are in one namespace, the server in the other.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::figures::Spread;
use crate::peers::Killed;
use crate::targets::{DIRECT, OURS, redis_server};

/// Each way.
const DELAY: Duration = Duration::from_millis(2);
const NEAR: &str = "10.203.0.1";
const FAR: &str = "10.203.0.2";
/// In namespaces of our own every port is free.
const REDIS: &str = "10.203.0.2:6379";
const PROXY: &str = "127.0.0.1:6379";
/// Longer than connections are kept ready.
const SILENCE: Duration = Duration::from_secs(6);

/// The clients of one way to the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrivals {
    pub name: String,
    /// Of each client, from before it connects to its first reply.
    pub milliseconds: Vec<f64>,
}

impl Arrivals {
    /// In time.
    pub fn spread(&self) -> Option<Spread> {
        Spread::of(self.milliseconds.iter().copied())
    }

    /// How often something went there and back: whole delays that fit into the median.
    pub fn round_trips(&self) -> Option<u64> {
        Some((self.spread()?.middle / (2.0 * DELAY.as_secs_f64() * 1e3)) as u64)
    }
}

/// Measures `count` clients in a row directly, through switchmaster, and through it when nobody came for a while.
pub fn measure(count: usize) -> Result<Vec<Arrivals>, Failure> {
    let (near, far, middle) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    for (space, end, address) in [(&near, "near", NEAR), (&far, "far", FAR)] {
        space.ip(&format!("link add eth0 type veth peer name {end} netns {}", middle.pid()))?;
        space.ip(&format!("address add {address}/24 dev eth0"))?;
        space.ip("link set eth0 up")?;
        space.ip("link set lo up")?;
        middle.ip(&format!("link set {end} up"))?;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/relay/far.py");
    let delay = DELAY.as_secs_f64().to_string();
    let mut wire = middle.command("python3");
    let mut wire = wire
        .args([script, "near", "far", &delay])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let ready = wire.stdout.take().map(|mut said| said.read_exact(&mut [0; 6]));
    let _wire = Killed(wire);
    ready.transpose()?;

    let dir = tempfile::tempdir()?;
    let mut redis = far.command(&redis_server());
    redis.args(["--bind", FAR, "--protected-mode", "no", "--save", ""]).current_dir(dir.path());
    let _redis = Killed::spawn(&mut redis)?;
    until_answered(&near, REDIS)?;
    let config = dir.path().join("sentinel.conf");
    let (host, port) = REDIS.split_once(':').ok_or("an address")?;
    fs::write(&config, format!("port 26379\nbind 127.0.0.1\nsentinel monitor mymaster {host} {port} 1\n"))?;
    let sentinel = std::env::var("REDIS_SENTINEL").unwrap_or_else(|_| "redis-sentinel".into());
    let _sentinel = Killed::spawn(near.command(&sentinel).arg(&config).current_dir(dir.path()))?;
    let mut ours = near.command(env!("CARGO_BIN_EXE_switchmaster"));
    ours.arg("serve").current_dir(dir.path()).env("STATE_DIRECTORY", dir.path());
    ours.env("SWITCHMASTER_LISTEN", PROXY).env("SWITCHMASTER_ADMIN", "off");
    let _ours = Killed::spawn(ours.env("SWITCHMASTER_SENTINELS", "127.0.0.1:26379"))?;
    until_answered(&near, PROXY)?;

    let pause = Duration::from_millis(20);
    let silent = format!("{OURS}, after {} s without a client", SILENCE.as_secs());
    Ok(vec![
        Arrivals { name: DIRECT.into(), milliseconds: clients(&near, REDIS, count, pause)? },
        Arrivals { name: OURS.into(), milliseconds: clients(&near, PROXY, count, pause)? },
        Arrivals { name: silent, milliseconds: clients(&near, PROXY, (count / 8).max(1), SILENCE)? },
    ])
}

/// What a client does that was started inside a namespace: it prints how many milliseconds each connection took.
pub fn client(addr: SocketAddr, count: usize, pause: Duration) -> Result<(), Failure> {
    for _ in 0..count {
        std::thread::sleep(pause);
        let started = Instant::now();
        let mut stream = TcpStream::connect(addr)?;
        stream.write_all(b"PING\r\n")?;
        stream.read_exact(&mut [0; 7])?;
        println!("{}", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn clients(near: &Namespace, addr: &str, count: usize, pause: Duration) -> Result<Vec<f64>, Failure> {
    let mut command = near.command(std::env::current_exe()?.to_str().ok_or("a strange path")?);
    command.args(["first-reply", addr, &count.to_string(), &pause.as_millis().to_string()]);
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8(output.stdout)?;
    let milliseconds: Vec<f64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
    match milliseconds.len() == count {
        true => Ok(milliseconds),
        false => Err(format!("a client of {addr} failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn until_answered(near: &Namespace, addr: &str) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        match clients(near, addr, 1, Duration::from_millis(20)) {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > Duration::from_secs(10) => return Err(error),
            Err(_) => {}
        }
    }
}

/// A network namespace, which lasts as long as the process in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Result<Namespace, Failure> {
        // It ends at the end of its input, also if we are killed.
        let mut command = Command::new("unshare");
        let child = command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let mut space = Namespace(child);
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let own = of("self")?;
        while of(&space.pid().to_string()).is_ok_and(|other| other == own) {
            if space.0.try_wait()?.is_some() {
                return Err("no network namespace can be made here (unshare --net)".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(space)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// `program`, to be started inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program);
        command
    }

    fn ip(&self, arguments: &str) -> Result<(), Failure> {
        let output = self.command("ip").args(arguments.split(' ')).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
