//! The redis-server and the redis-sentinel of this host.
//!
//! Only looked for, never started here.

use std::fmt;
use std::path::{Path, PathBuf};

/// The program and arguments that run a server.
#[derive(Clone, Debug)]
pub struct Binary {
    program: PathBuf,
    arguments: &'static [&'static str],
}

/// No such program on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotInstalled(pub &'static str);

impl fmt::Display for NotInstalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} was not found in the PATH: on Debian or Ubuntu, apt-get install redis-server redis-sentinel; \
             elsewhere install Redis or Valkey, or set REDIS_SERVER and REDIS_SENTINEL to the programs",
            self.0
        )
    }
}

impl std::error::Error for NotInstalled {}

impl Binary {
    /// The file to run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What goes behind the configuration file on its command line.
    pub fn arguments(&self) -> &'static [&'static str] {
        self.arguments
    }

    /// `$REDIS_SERVER`, else redis-server or valkey-server from the PATH.
    pub fn redis_server() -> Result<Binary, NotInstalled> {
        let found = from_env("REDIS_SERVER").or_else(|| in_path("redis-server")).or_else(|| in_path("valkey-server"));
        Ok(Binary { program: found.ok_or(NotInstalled("redis-server"))?, arguments: &[] })
    }

    /// `$REDIS_SENTINEL`, else redis-sentinel or valkey-sentinel from the PATH, else the server in its Sentinel mode.
    pub fn redis_sentinel() -> Result<Binary, NotInstalled> {
        let found =
            from_env("REDIS_SENTINEL").or_else(|| in_path("redis-sentinel")).or_else(|| in_path("valkey-sentinel"));
        let program = match found {
            Some(program) => program,
            None => Binary::redis_server().map_err(|_| NotInstalled("redis-sentinel"))?.program,
        };
        let named_sentinel = program.file_name().is_some_and(|name| name.to_string_lossy().contains("sentinel"));
        Ok(Binary { program, arguments: if named_sentinel { &[] } else { &["--sentinel"] } })
    }
}

fn from_env(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
