//! Any Laravel `.env` is read or refused, and a value that is written by its rules is read as it was.
//!
//! The first byte of the input chooses what the rest is: a file as it is, or a password to be written to one.

#![no_main]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use switchmaster::config::{Config, Loaded, Problems, Sources};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("switchmaster-fuzz-{}.env", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let Some((what, rest)) = input.split_first() else { return };
    match what % 3 {
        0 => drop(load(rest).map(|loaded| loaded.print())),
        kind => {
            let Ok(password) = std::str::from_utf8(rest) else { return };
            round_trip(password, kind == 1);
        }
    }
});

fn load(text: &[u8]) -> Result<Loaded, Problems> {
    fs::write(&*FILE, text).unwrap();
    Config::load(&Sources {
        flags: BTreeMap::from([("laravel_env", vec![FILE.to_str().unwrap().to_owned()])]),
        environment: BTreeMap::from([("HOME_HOST".to_owned(), OsString::from("10.0.0.9"))]),
        ..Sources::default()
    })
}

fn round_trip(password: &str, double: bool) {
    // What `env()` takes for none, or takes quotes from; and no secret has more than one line.
    let none = ["", "null", "(null)", "empty", "(empty)", "true", "(true)", "false", "(false)"];
    let quoted = |quote: char| password.starts_with(quote) && password.ends_with(quote);
    let is_none = none.contains(&password.to_ascii_lowercase().as_str());
    if is_none || quoted('"') || quoted('\'') || password.contains(['\n', '\r', '\0']) {
        return;
    }
    let value = match double {
        true => {
            let escaped: String = password
                .chars()
                .flat_map(|c| if matches!(c, '"' | '\\' | '$') { vec!['\\', c] } else { vec![c] })
                .collect();
            format!("\"{escaped}\"")
        }
        false if password.contains('\'') => return,
        false => format!("'{password}'"),
    };
    let text = format!("APP_NAME=x\n# \"\nexport REDIS_PASSWORD = {value} # the end\nREDIS_PORT=6379\n");
    let loaded = load(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:?} in {text:?}"));
    let auth = loaded.config.sentinel.redis_auth.expect("a password");
    assert_eq!(auth.password.reveal(), password, "in {text:?}");
}
