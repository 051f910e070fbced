//! Hosts with a network of their own: Laravel 13 through failovers, hosts that lose power or their link, a load balancer.
//!
//! Needs root, `unshare`, `ip`, nginx and HAProxy, and Debian forky in a folder (`ci/forky` makes it), whose Laravel, PHP
//! and clients are used; where one of these is missing nothing is tested, and that is said. `HOSTS_ROUNDS=10` (`make
//! hosts`) makes each fault so often; without it the short list of `cargo test` runs. `HOSTS_DOWN_AFTER` is Sentinel's,
//! in ms. A name as argument runs what has it in its own: `laravel`, `lone`, `power`, `balancer`.

mod app;
mod balancer;
mod cluster;
mod diary;
mod host;
mod laravel;
mod power;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What a dying master acknowledged this long before its end may be missing on the new one.
const REPLICATION_LAG_MS: u64 = 1000;
const INSIDE: &str = "HOSTS_INSIDE";
/// For everything that should come soon, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A scenario: returns its table of what was seen, and what was wrong.
type Scenario = fn(&Options) -> Outcome;

/// What a scenario comes to.
#[derive(Debug, Default)]
pub struct Outcome {
    seen: Vec<String>,
    broken: Vec<String>,
}

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// How often each fault is made; none: the short list.
    rounds: Option<usize>,
    /// Sentinel's `down-after-milliseconds`.
    down_after: u64,
    /// The folder with Debian forky.
    forky: PathBuf,
}

const SCENARIOS: [(&str, Scenario); 4] = [
    ("laravel", laravel::through_failovers),
    ("lone", laravel::on_a_lone_redis),
    ("power", power::run),
    ("balancer", balancer::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--list") {
        println!("hosts: test");
        return ExitCode::SUCCESS;
    }
    let rounds = std::env::var("HOSTS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let wanted = |name: &str| match arguments.as_slice() {
        [] => name != "lone" || rounds.is_some(),
        some => some.iter().any(|argument| "hosts".contains(argument.as_str()) || name.contains(argument.as_str())),
    };
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| wanted(name)).collect();
    if scenarios.is_empty() {
        println!("test result: ok. 0 passed; 0 failed; {} filtered out", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    let forky = std::env::var_os("SWITCHMASTER_FORKY")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/forky").into(), PathBuf::from);
    if let Err(missing) = enter(&forky) {
        eprintln!("hosts: NOT TESTED: {missing}");
        println!("test result: ok. 0 passed; 0 failed; {} ignored", scenarios.len());
        return ExitCode::SUCCESS;
    }
    let down_after = std::env::var("HOSTS_DOWN_AFTER").ok().and_then(|ms| ms.parse().ok()).unwrap_or(1000);
    let options = Options { rounds, down_after, forky };
    let mut failed = 0;
    for (name, scenario) in &scenarios {
        let began = Instant::now();
        let outcome = scenario(&options);
        println!("== {name}, {} s", began.elapsed().as_secs());
        outcome.seen.iter().for_each(|line| println!("{line}"));
        outcome.broken.iter().for_each(|line| println!("BROKEN {name}: {line}"));
        failed += usize::from(!outcome.broken.is_empty());
    }
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed", scenarios.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts this program again in a network and process namespace; returns inside, or with what is missing for that.
fn enter(forky: &std::path::Path) -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return host::prepare().map_err(|error| error.to_string());
    }
    if !rustix::process::getuid().is_root() {
        return Err("it needs root".into());
    }
    for program in ["unshare", "nsenter", "ip", "nginx", "haproxy", "redis-server", "chroot"] {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("there is no {program}"));
        }
    }
    if !forky.join("usr/share/php/Illuminate/autoload.php").exists() || !forky.join("usr/sbin/php-fpm8.4").exists() {
        return Err(format!("there is no Laravel 13 in {} (ci/forky puts it there)", forky.display()));
    }
    let inside = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let possible = Command::new("unshare").args(inside).args(["ip", "link", "set", "lo", "up"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        return Err("no network of its own can be made here".into());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new("unshare")
        .args(inside)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error.to_string())
}

/// Asks until it is true; otherwise says what was waited for.
fn until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "{what}: not after {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

fn unix_ms() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}
