//! Where a value came from, as an operator would point at it.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from. `Display` gives what `config print` and error messages show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag, with its dashes.
    Flag(&'static str),
    /// A variable of the process environment.
    Environment(String),
    /// The configuration file; line and column count from 1.
    File {
        /// As given.
        path: PathBuf,
        /// Of the value, or of the key when it is the key that is wrong.
        line: usize,
        /// The same, in characters.
        column: usize,
    },
    /// A Laravel `.env` file.
    Laravel {
        /// As given.
        path: PathBuf,
        /// Of the variable, from 1.
        line: usize,
    },
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// Whether it is one of the variables that Laravel set-ups use, in the environment or in a `.env`.
    pub(super) fn is_laravel(&self) -> bool {
        match self {
            Origin::Laravel { .. } => true,
            Origin::Environment(name) => !name.starts_with("SWITCHMASTER_"),
            _ => false,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(flag) => write!(f, "flag {flag}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::File { path, line, .. } => write!(f, "file {} line {line}", path.display()),
            Origin::Laravel { path, line } => write!(f, ".env {} line {line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}
