//! Clients in other languages: scripts that print what they do, one JSON object a line.
//!
//! They are told host (or the path of a Unix socket), port, password, name and pause on their command line and end when their stdin does.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use switchmaster::net::ListenAddr;

use super::event::{Clock, Journal, parse};

/// A running script; killed when dropped.
#[derive(Debug)]
pub struct Foreign {
    child: Child,
}

/// How to run a script, where it can be run.
#[derive(Clone, Debug)]
pub struct Language {
    /// The client library.
    pub sort: &'static str,
    program: PathBuf,
    script: PathBuf,
    environment: Vec<(&'static str, PathBuf)>,
}

/// The languages of this machine, and what is missing for the others.
pub fn languages() -> (Vec<Language>, Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let (node_modules, venv) = (target.join("chaos-node/node_modules"), target.join("chaos-venv/bin/python"));
    let candidates = [
        ("redis-py", venv, "redis_py.py", "import redis", vec![]),
        ("ioredis", "node".into(), "ioredis.js", "require('ioredis')", vec![("NODE_PATH", node_modules)]),
        ("predis", "php".into(), "predis.php", "require 'Predis/Autoloader.php';", vec![]),
        ("phpredis", "php".into(), "phpredis.php", "new Redis;", vec![]),
    ];
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (sort, program, script, probe, environment) in candidates {
        let flag = match sort {
            "redis-py" => "-c",
            "ioredis" => "-e",
            _ => "-r",
        };
        let mut command = Command::new(&program);
        command.args([flag, probe]).envs(environment.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok_and(|status| status.success()) {
            found.push(Language { sort, program, script: root.join("tests/clients").join(script), environment });
        } else {
            missing.push(sort.to_owned());
        }
    }
    (found, missing)
}

impl Language {
    /// Starts the script; what it does goes to `journal`.
    pub fn start(
        &self,
        addr: &ListenAddr,
        password: &str,
        name: &str,
        pause: Duration,
        journal: Journal,
        clock: Clock,
    ) -> std::io::Result<Foreign> {
        let (host, port) = match addr {
            ListenAddr::Tcp(addr) => (addr.ip().to_string(), addr.port()),
            ListenAddr::Unix(path) => (path.display().to_string(), 0),
        };
        let mut child = Command::new(&self.program)
            .arg(&self.script)
            .args([&host, &port.to_string(), password, name, &pause.as_millis().to_string()])
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("it is piped");
        let (sort, name) = (self.sort, name.to_owned());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                match parse(&line, clock) {
                    Some(event) => journal.push(event),
                    None => eprintln!("{sort} {name} says: {line}"),
                }
            }
        });
        Ok(Foreign { child })
    }
}

impl Foreign {
    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Lets it finish what it does; killed after `limit`.
    pub async fn finish(mut self, limit: Duration) {
        drop(self.child.stdin.take());
        let began = std::time::Instant::now();
        while !self.has_ended() && began.elapsed() < limit {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
