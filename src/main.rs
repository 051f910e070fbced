//! switchmaster's binary: parse, log, dispatch, exit code.
//!
//! Nothing is decided here: each verb is one call into the library.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use switchmaster::cli::{Cli, ConfigAction, Verb};
use switchmaster::config::{Config, Loaded, LogConfig, Sources};
use switchmaster::serve;

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
    let loaded = match Config::load(&Sources::of_process(cli.config.by_key(), cli.config.config.clone())) {
        Ok(loaded) => loaded,
        Err(problems) => {
            for problem in problems.0 {
                fail(EXIT_USAGE, &problem.to_string());
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_log(&loaded.config.log);
    dispatch(cli.verb.unwrap_or(Verb::Serve), loaded)
}

fn dispatch(verb: Verb, loaded: Loaded) -> ExitCode {
    match verb {
        Verb::Config(args) => match args.action {
            ConfigAction::Check => say(&format!("the configuration is valid ({})\n", sources(&loaded))),
            ConfigAction::Print => say(&loaded.print()),
        },
        Verb::Serve => serve(&loaded.config),
        Verb::Status(_) => not_built("status"),
        Verb::Failover => not_built("failover"),
        Verb::Hold(_) => not_built("hold"),
        Verb::Release => not_built("release"),
        Verb::Demo(_) => not_built("demo"),
    }
}

fn serve(config: &Config) -> ExitCode {
    match switchmaster::serve::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(serve::Error::Io(error)) => fail(EXIT_UNAVAILABLE, &error.to_string()),
        Err(serve::Error::Sentinel(error)) => fail(EXIT_USAGE, &error.to_string()),
    }
}

fn not_built(verb: &str) -> ExitCode {
    fail(EXIT_INTERNAL, &format!("this build has no {verb:?} yet"))
}

fn sources(loaded: &Loaded) -> String {
    let file = match &loaded.file {
        Some(path) => format!("file {}", path.display()),
        None => "no file".to_owned(),
    };
    match &loaded.laravel_env {
        Some(path) => format!("{file}, .env {}", path.display()),
        None => file,
    }
}

/// Log lines go to standard error: coloured for a terminal, plain into a pipe, JSON on request.
fn start_log(log: &LogConfig) {
    let lines = tracing_subscriber::fmt().with_max_level(log.level).with_writer(std::io::stderr);
    match log.json {
        true => lines.json().flatten_event(true).init(),
        false => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
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
