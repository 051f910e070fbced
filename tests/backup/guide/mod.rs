//! docs/disaster-recovery.md, done: every file is written and every command run as the page has them, host by host.
//!
//! A comment above each block says where: `on HOST…`, `file PATH on HOST…`, `cron on HOST`, `by hand`; `shows TEXT` waits
//! until the command prints that. What differs from the page: the object store is ours, at a plain address; `systemctl`
//! is a stand-in that runs the units' own lines; the times and questions of restores are filled in.

mod hosts;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hosts::Hosts;

use crate::support::bucket::{BUCKET, Bucket, KEY_ID, SECRET};

const HOSTS: [(&str, &str); 8] = [
    ("redis-1", "192.168.1.100"),
    ("redis-2", "192.168.1.101"),
    ("redis-3", "192.168.1.102"),
    ("sentinel-1", "192.168.1.110"),
    ("sentinel-2", "192.168.1.111"),
    ("sentinel-3", "192.168.1.112"),
    ("app-1", "192.168.1.201"),
    ("app-2", "192.168.1.202"),
];
/// Where the object store is.
const STORE: &str = "192.168.1.250";
const PASSWORD: &str = "YOUR_STRONG_REDIS_PASSWORD";
/// A moment that the page names.
const MOMENT: &str = "2026-11-20T03:14:00Z";
/// How long something may take to be as the page says.
const LIMIT: Duration = Duration::from_secs(60);
/// The metric of what `backup follow` has in the store.
const SHIPPED: &str = "switchmaster_backup_stream_shipped_timestamp_seconds";
const INSIDE: &str = "GUIDE_INSIDE";

/// Starts itself again in a network of its own, where the hosts' bridge is.
#[test]
fn every_command_of_the_guide_works() {
    if std::env::var_os(INSIDE).is_some() {
        return the_guide();
    }
    let probe = ["--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c"];
    let mut unshare = Command::new("unshare");
    unshare.args(probe).arg("mount -t tmpfs none /mnt && ip link add probe type bridge").stderr(Stdio::null());
    if !unshare.status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: the guide's hosts need root, unshare and ip");
        return;
    }
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "guide::every_command_of_the_guide_works"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "the guide failed: see above");
}

fn the_guide() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/disaster-recovery.md");
    let steps = steps(&fs::read_to_string(page).unwrap());
    assert!(steps.len() > 25, "only {} blocks were seen", steps.len());
    let hosts = Hosts::start(&HOSTS, STORE, Path::new(env!("CARGO_BIN_EXE_switchmaster")));
    thread::spawn(serve_objects);
    let mut guide = Guide { hosts, stopped: None, moment: None };
    for step in &steps {
        guide.before(step);
        guide.follow(step);
        guide.after(step);
    }
}

/// The object store, until the test ends.
fn serve_objects() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _bucket = Bucket::start_at(&format!("{STORE}:9000")).await;
        std::future::pending::<()>().await;
    });
}

/// One block of the page.
#[derive(Debug)]
struct Step {
    place: Place,
    hosts: Vec<String>,
    /// Repeated until the output has this.
    shows: Option<String>,
    text: String,
}

#[derive(Debug, PartialEq)]
enum Place {
    Run,
    File(String),
    Cron,
    ByHand,
}

/// The blocks of the page in their order; each must say where it belongs.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut marker = None;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(inner) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) {
            marker = Some(inner);
        } else if line.starts_with("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            let marker = marker.take().unwrap_or_else(|| panic!("no place for {text:?}"));
            steps.push(step(marker, text.join("\n") + "\n"));
        }
    }
    steps
}

fn step(marker: &str, text: String) -> Step {
    let (marker, shows) = match marker.split_once(" shows ") {
        Some((marker, shows)) => (marker, Some(shows.to_owned())),
        None => (marker, None),
    };
    let words: Vec<&str> = marker.split(' ').collect();
    let (place, hosts) = match &words[..] {
        ["on", "the", which] => (Place::Run, vec![*which]),
        ["on", hosts @ ..] => (Place::Run, hosts.to_vec()),
        ["file", path, "on", hosts @ ..] => (Place::File((*path).to_owned()), hosts.to_vec()),
        ["cron", "on", host] => (Place::Cron, vec![*host]),
        ["by", "hand"] => (Place::ByHand, vec!["app-2"]),
        _ => panic!("what is {marker:?}?"),
    };
    Step { place, hosts: hosts.into_iter().map(str::to_owned).collect(), shows, text }
}

/// Somebody who follows the page.
struct Guide {
    hosts: Hosts,
    /// The host whose Redis was stopped.
    stopped: Option<String>,
    /// When the data was what it should be again after a restore.
    moment: Option<String>,
}

impl Guide {
    fn follow(&mut self, step: &Step) {
        for host in &step.hosts {
            match &step.place {
                Place::File(path) => self.hosts.write(host, path, &self.fill_in(&step.text)),
                Place::Cron => {
                    let command = step.text.split_once(" root ").expect("a line of /etc/crontab").1;
                    self.run(host, command, None);
                }
                Place::Run | Place::ByHand => {
                    let host = self.who(host);
                    self.run(&host, &self.fill_in(&step.text), step.shows.as_deref());
                }
            }
        }
    }

    /// What the page leaves to its reader.
    fn fill_in(&self, text: &str) -> String {
        let text = text.replace("https://us-east-1.linodeobjects.com", &format!("http://{STORE}:9000"));
        let text = text.replace("your-bucket", BUCKET).replace("YOUR_ACCESS_KEY", KEY_ID);
        let text = text.replace("YOUR_SECRET_KEY", SECRET);
        // Another account is another part of the same bucket here.
        let text = text.replace("https://eu-central-1.linodeobjects.com", &format!("http://{STORE}:9000"));
        let text =
            text.replace("your-other-bucket/redis", &format!("{BUCKET}/second")).replace("OTHER_ACCESS_KEY", KEY_ID);
        let text = text.replace("OTHER_SECRET_KEY", SECRET);
        let text = text.replace("backup_s3_region", "backup_s3_path_style = true\nbackup_s3_region");
        let text = text.replace(MOMENT, self.moment.as_deref().unwrap_or(MOMENT));
        text.lines()
            .map(|line| {
                let asks = line.contains("backup restore") && !line.contains("--yes");
                format!("{line}{}\n", if asks { " --yes" } else { "" })
            })
            .collect()
    }

    fn who(&mut self, host: &str) -> String {
        match host {
            "master" => {
                let master = self.master();
                self.stopped = Some(master.clone());
                master
            }
            "stopped" => self.stopped.clone().expect("a node that was stopped"),
            host => host.to_owned(),
        }
    }

    fn master(&self) -> String {
        let told = self.told("sentinel-1", "redis-cli -p 26379 SENTINEL GET-MASTER-ADDR-BY-NAME mymaster");
        let addr = told.lines().next().unwrap_or_default();
        let host = HOSTS.iter().find(|(_, known)| *known == addr);
        host.unwrap_or_else(|| panic!("the master is {told}")).0.to_owned()
    }

    fn run(&self, host: &str, script: &str, shows: Option<&str>) {
        println!("{host}$ {}", script.trim_end().replace('\n', &format!("\n{host}$ ")));
        let started = Instant::now();
        loop {
            let output = self.hosts.run(host, script);
            let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            if output.status.success() && shows.is_none_or(|shows| told.contains(shows)) {
                println!("{told}");
                return;
            }
            // What is asked for comes in its time; what only runs must run.
            let waits = shows.is_some() || script.contains("backup restore");
            assert!(waits && started.elapsed() < LIMIT, "{host}$ {script}\n{}: {told}", output.status);
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a command of ours prints.
    fn told(&self, host: &str, script: &str) -> String {
        let output = self.hosts.run(host, script);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Asks Redis through the proxy of an application host.
    fn redis(&self, host: &str, command: &str) -> String {
        self.told(host, &format!("REDISCLI_AUTH={PASSWORD} redis-cli {command}"))
    }

    /// Waits until a command through the proxy prints what it should.
    fn wait_redis(&self, host: &str, command: &str, expected: &str) {
        let started = Instant::now();
        loop {
            let told = self.redis(host, command);
            if told == expected {
                return;
            }
            assert!(started.elapsed() < LIMIT, "{host}: {command}: {told} instead of {expected}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What happens on a real day between the lines of the page.
    fn before(&mut self, step: &Step) {
        if step.text.starts_with("switchmaster backup create\n") {
            self.wait_redis("app-1", "SET user:1 nightly", "OK");
            self.wait_redis("app-2", "SET other:1 nightly", "OK");
        } else if step.text.contains("--keys") {
            self.wait_redis("app-1", "SET user:1 broken", "OK");
            self.wait_redis("app-1", "SET other:1 later", "OK");
        } else if step.text.contains("restore --to ") {
            // The follower has shipped something; then data, a moment, and the accident.
            let metrics = "curl -fsS http://127.0.0.1:9379/metrics";
            let shipped = || {
                let told = self.told("app-2", metrics);
                let line = told.lines().find(|line| line.starts_with(SHIPPED))?;
                line.rsplit(' ').next()?.parse::<f64>().ok().filter(|at| *at > 0.0)
            };
            hosts::until("the follower to have begun", shipped);
            self.wait_redis("app-1", "SET user:2 precious", "OK");
            thread::sleep(Duration::from_secs(1));
            self.moment = Some(self.told("app-1", "date -u +%Y-%m-%dT%H:%M:%SZ"));
            thread::sleep(Duration::from_secs(1));
            self.wait_redis("app-2", "FLUSHALL", "OK");
        } else if step.place == Place::ByHand {
            let config = format!(
                "[default]\naccess_key = {KEY_ID}\nsecret_key = {SECRET}\nhost_base = {STORE}:9000\n\
                 host_bucket = {STORE}:9000\nuse_https = False\nsignature_v2 = False\n"
            );
            self.hosts.write("app-2", "/root/.s3cfg", &config);
        }
    }

    fn after(&mut self, step: &Step) {
        if step.text.contains("FLUSHALL") && step.text.starts_with("REDISCLI_AUTH") {
            assert_eq!(self.redis("app-1", "DBSIZE"), "0");
        } else if step.text.contains("restore latest --proxy") {
            for app in ["app-1", "app-2"] {
                self.wait_redis(app, "GET user:1", "nightly");
                self.wait_redis(app, "GET other:1", "nightly");
            }
        } else if step.text.contains("--keys") {
            self.wait_redis("app-1", "GET user:1", "nightly");
            self.wait_redis("app-1", "GET other:1", "later");
        } else if step.text.contains("restore --to ") {
            self.wait_redis("app-1", "GET user:2", "precious");
        }
    }
}
