//! switchmaster's binary: parse, log, dispatch, exit code.
//!
//! Nothing is decided here: each verb is one call into the library.

use std::fmt::Display;
use std::io::{IsTerminal, Stdout, Write};
#[cfg(feature = "backup")]
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
#[cfg(feature = "backup")]
use switchmaster::backup::{self, args::BackupArgs};
#[cfg(feature = "demo")]
use switchmaster::cli::DemoArgs;
use switchmaster::cli::{Cli, ConfigAction, DirectArgs, DoctorArgs, Verb};
use switchmaster::config::{self, Config, HoldTimeout, Loaded, Origin, Sources};
#[cfg(feature = "demo")]
use switchmaster::demo::{self, DemoOptions};
use switchmaster::direct;
use switchmaster::doctor::gather::{Question, Unanswered};
use switchmaster::doctor::{application, check as checks, report};
use switchmaster::log;
use switchmaster::net::{self, ListenAddr};
use switchmaster::remote::Remote;
use switchmaster::sentinel::client::AddressMap;
use switchmaster::serve::{self, ConfigSource};
#[cfg(feature = "top")]
use switchmaster::top;
use switchmaster::verbs;
use tokio::time::timeout;

/// tokio aligns tasks and sockets to 128 bytes. glibc's malloc wastes up to as much again on each, jemalloc has sizes for
/// them: an idle session takes a fifth less (in a debug build 933 bytes for 1160, with a backend 1201 for 1573), and memory
/// that thousands of short sessions leave behind does not stay scattered. A request allocates nothing, and costs the same
/// CPU with both. What is free for ten seconds is given back by a thread of its own (Cargo.toml), as nobody else would do
/// so after a burst of clients that have left.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// For the answer of a switchmaster that runs already.
const ADMIN_LIMIT: Duration = Duration::from_secs(1);
const ADMIN_IS_OFF: &str = "the admin address is off: give the one of the running switchmaster with --admin";
/// `doctor` found something.
const EXIT_FINDINGS: u8 = 1;
/// Wrong usage or configuration (EX_USAGE).
const EXIT_USAGE: u8 = 64;
/// Something needed is not available: a port, a Sentinel (EX_UNAVAILABLE).
const EXIT_UNAVAILABLE: u8 = 69;
/// An internal error (EX_SOFTWARE).
const EXIT_INTERNAL: u8 = 70;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            return fail(EXIT_USAGE, text.strip_prefix("error: ").unwrap_or(&text).trim_end());
        }
        Err(help_or_version) => {
            let _ = help_or_version.print();
            return ExitCode::SUCCESS;
        }
    };
    let mut flags = cli.config.by_key();
    if let Some(Verb::Doctor(DoctorArgs { laravel: Some(path), .. })) = &cli.verb {
        // Its Sentinels and its password, unless another .env is named.
        flags.entry("laravel_env").or_insert_with(|| vec![path.display().to_string()]);
    }
    let sources = Sources::of_process(flags, cli.config.config.clone());
    let loaded = match Config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in &problems.0 {
                fail(EXIT_USAGE, &problem.to_string());
            }
            if matches!(cli.verb, None | Some(Verb::Serve)) {
                serve::not_started(&problems.to_string());
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let set_log_level = log::start(&loaded.config.log);
    dispatch(cli.verb.unwrap_or(Verb::Serve), loaded, sources, set_log_level)
}

fn dispatch(verb: Verb, loaded: Loaded, sources: Sources, set_log_level: log::SetLevel) -> ExitCode {
    match verb {
        Verb::Config(args) => match args.action {
            ConfigAction::Check => check(&loaded),
            ConfigAction::Print => {
                warn(&loaded.warnings);
                warn(&loaded.foreign);
                say(&loaded.print())
            }
        },
        Verb::Serve => serve(loaded, sources, set_log_level),
        Verb::Status(args) => {
            let show = verbs::Show { json: args.json, watch: args.watch, colour: std::io::stdout().is_terminal() };
            ask(&loaded, async |remote, out| match verbs::status(remote, show, out).await? {
                found if found.ready => Ok(()),
                found => Err(verbs::Error::NotReady(format!("not ready: {}", found.why))),
            })
        }
        #[cfg(feature = "top")]
        Verb::Top => top(&loaded),
        Verb::Wait(args) => ask(&loaded, async |remote, out| verbs::wait(remote, args.timeout, out).await),
        Verb::Direct(args) => direct(&args, &loaded),
        Verb::Doctor(args) => doctor(&args, &loaded),
        Verb::Failover(args) => {
            ask(&loaded, async |remote, out| verbs::failover(remote, args.force, out, &mut std::io::stderr()).await)
        }
        Verb::Hold(args) => ask(&loaded, async |remote, out| verbs::hold(remote, args.duration, out).await),
        Verb::Release => ask(&loaded, async |remote, out| verbs::release(remote, out).await),
        Verb::Reload => ask(&loaded, async |remote, out| verbs::reload(remote, out).await),
        #[cfg(feature = "backup")]
        Verb::Backup(args) => backup(*args, loaded.config),
        #[cfg(feature = "demo")]
        Verb::Demo(args) => demo(&args, &loaded),
    }
}

fn check(loaded: &Loaded) -> ExitCode {
    warn(&loaded.warnings);
    if !loaded.foreign.is_empty() {
        loaded.foreign.iter().for_each(|unknown| _ = fail(EXIT_USAGE, &unknown.to_string()));
        return ExitCode::from(EXIT_USAGE);
    }
    let taken = serve::taken(&loaded.config);
    block_on(async {
        // The switchmaster that runs already has every right to its ports.
        let is_ours = async |remote: Remote| timeout(ADMIN_LIMIT, remote.look()).await.is_ok_and(|view| view.is_ok());
        let ours = match remote(loaded) {
            Some(remote) if !taken.is_empty() => is_ours(remote).await,
            _ => false,
        };
        if !ours {
            warn(&taken);
        }
        say(&format!("the configuration is valid ({})\n{}", places(loaded), loaded.understood()))
    })
}

#[cfg(feature = "backup")]
fn backup(args: BackupArgs, config: Config) -> ExitCode {
    let Config { sentinel, backup, admin_token, state_dir, notify, .. } = config;
    let config = backup::Config {
        sentinel: backup::config::Monitored {
            addrs: sentinel.addrs,
            master_name: sentinel.master_name,
            auth: sentinel.auth,
            redis_auth: sentinel.redis_auth,
            address_map: sentinel.address_map,
        },
        backup,
        admin_token,
        webhook: notify.webhook,
        state_dir,
    };
    // Nothing of the environment: what is set there is of the first store.
    let read = |file: &Path| {
        let sources = Sources { config: Some(file.to_owned()), ..Sources::default() };
        Config::load(&sources).map(|loaded| loaded.config.backup).map_err(|problems| problems.to_string())
    };
    block_on(async {
        match backup::run(args, &config, &read).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(), &error.to_string()),
        }
    })
}

#[cfg(feature = "demo")]
fn demo(args: &DemoArgs, loaded: &Loaded) -> ExitCode {
    // Without a flag the demo keeps away from the address of the switchmaster that may run on this host.
    let admin = loaded.config.admin.filter(|_| matches!(loaded.origin("admin"), Some(Origin::Flag(_))));
    let mut options = DemoOptions { keep: args.keep, admin, ..DemoOptions::default() };
    if let ListenAddr::Tcp(addr) = &loaded.config.listen[0].addr {
        options.listen = *addr;
    }
    block_on(async {
        match demo::run(options).await {
            Ok(ending) => ExitCode::from(ending.exit_code()),
            Err(error) => fail(EXIT_UNAVAILABLE, &error.to_string()),
        }
    })
}

#[cfg(feature = "top")]
fn top(loaded: &Loaded) -> ExitCode {
    let Some(remote) = remote(loaded) else { return fail(EXIT_USAGE, ADMIN_IS_OFF) };
    block_on(async {
        match top::run(remote).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ top::Error::NoTerminal) => fail(EXIT_USAGE, &error.to_string()),
            Err(error) => fail(EXIT_UNAVAILABLE, &error.to_string()),
        }
    })
}

/// Asks the switchmaster that runs on this host.
fn ask(loaded: &Loaded, question: impl AsyncFnOnce(Remote, &mut Stdout) -> Result<(), verbs::Error>) -> ExitCode {
    let Some(remote) = remote(loaded) else {
        return fail(EXIT_USAGE, ADMIN_IS_OFF);
    };
    block_on(async {
        match question(remote, &mut std::io::stdout()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.exit_code(), &error.to_string()),
        }
    })
}

/// Where it is asked: at the address of `--admin`, which may be another host's, else at its socket if this user may
/// connect to it, else at its admin address.
fn remote(loaded: &Loaded) -> Option<Remote> {
    let addr = loaded.config.admin.map(ListenAddr::Tcp);
    let sockets: &[std::path::PathBuf] = match loaded.origin("admin") {
        Some(Origin::Flag(_)) if !matches!(loaded.origin("admin_socket"), Some(Origin::Flag(_))) => &[],
        _ => loaded.config.admin_socket.places(),
    };
    let socket = sockets.iter().find(|path| net::is_listened_at(path));
    let admin = socket.map(|path| ListenAddr::Unix(path.clone())).or(addr)?;
    Some(Remote { admin, token: loaded.config.admin_token.clone() })
}

fn direct(args: &DirectArgs, loaded: &Loaded) -> ExitCode {
    let proxy = remote(loaded).filter(|_| !args.without_proxy);
    block_on(async {
        let found = match direct::find(proxy, &loaded.config.sentinel).await {
            Ok(found) => found,
            Err(error) => return fail(error.exit_code(), &error.to_string()),
        };
        if let Some(warning) = found.warning {
            let _ = writeln!(std::io::stderr(), "switchmaster: warning: {warning}");
        }
        let addr = found.addr;
        say(&match (args.url, args.env) {
            (true, _) => format!("redis://{addr}\n"),
            (_, true) => format!("REDIS_HOST={}\nREDIS_PORT={}\n", addr.ip(), addr.port()),
            _ => format!("{addr}\n"),
        })
    })
}

fn doctor(args: &DoctorArgs, loaded: &Loaded) -> ExitCode {
    let config = &loaded.config;
    let question = Question {
        sentinels: config.sentinel.addrs.clone(),
        master_name: config.sentinel.master_name.clone(),
        sentinel_auth: config.sentinel.auth.clone(),
        redis_auth: config.sentinel.redis_auth.clone(),
        map: AddressMap::new(config.sentinel.address_map.clone()),
    };
    warn(&loaded.warnings);
    block_on(async {
        let mut facts = match question.ask().await {
            Ok(facts) => facts,
            Err(error @ Unanswered::Unreachable(_)) => return fail(EXIT_UNAVAILABLE, &error.to_string()),
            Err(error @ Unanswered::WrongName(_)) => return fail(EXIT_USAGE, &error.to_string()),
        };
        if let HoldTimeout::Fixed(hold) = config.failover.hold_timeout {
            facts.hold = Some(hold);
        }
        let mut notes = Vec::new();
        if let Some(path) = &args.laravel {
            let ours: Vec<String> = config.listen.iter().map(|listen| listen.addr.to_string()).collect();
            let variables = match config::laravel_variables(path) {
                Ok(variables) => variables,
                Err(error) => return fail(EXIT_USAGE, &format!("{}: {error}", path.display())),
            };
            let application = application::read(path, &variables, &ours).await;
            notes.clone_from(&application.unread);
            facts.application = Some(application);
        }
        let findings = checks::run(&facts);
        let text = match (args.json, args.fix) {
            (true, _) => report::json(&facts, &findings, &notes),
            (_, true) => report::fixes(&findings),
            _ => format!("{}{}", loaded.understood(), report::text(&facts, &findings, &notes)),
        };
        say(&text);
        if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FINDINGS) }
    })
}

fn block_on(verb: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(verb);
            // What a verb that was given up left in a thread has nobody who waits for it.
            runtime.shutdown_background();
            code
        }
        Err(error) => fail(EXIT_INTERNAL, &format!("no runtime: {error}")),
    }
}

fn serve(loaded: Loaded, sources: Sources, set_log_level: log::SetLevel) -> ExitCode {
    for warning in loaded.warnings.iter().chain(&loaded.foreign) {
        tracing::warn!("{warning}");
    }
    match serve::run(loaded, ConfigSource { read: Arc::new(move || Config::load(&sources)), set_log_level }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error {
                serve::Error::Io(_) => EXIT_UNAVAILABLE,
                serve::Error::Sentinel(_) => EXIT_USAGE,
                serve::Error::Panicked(_) => return fail(EXIT_INTERNAL, &error.to_string()),
            };
            let code = fail(code, &error.to_string());
            serve::not_started(&error.to_string());
            code
        }
    }
}

/// Says on standard error what was assumed or not understood.
fn warn(warnings: &[impl Display]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "switchmaster: warning: {warning}");
    }
}

fn places(loaded: &Loaded) -> String {
    let file = match &loaded.file {
        Some(path) => format!("file {}", path.display()),
        None => "no file".to_owned(),
    };
    match &loaded.laravel_env {
        Some(path) => format!("{file}, .env {}", path.display()),
        None => file,
    }
}

/// Prints to standard output; a reader that went away (`| head`) is no error.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Says on standard error what is wrong and returns the exit code.
fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "switchmaster: {message}");
    ExitCode::from(code)
}
