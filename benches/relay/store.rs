//! What was measured, kept in `target/tmp` until the page is written: a benchmark may be run in parts.
//!
//! Everything kept is of one build of switchmaster and one set of programs; another build begins anew.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;

/// Results by the name of their part, as `--only` knows it.
#[derive(Default, Serialize, Deserialize)]
pub struct Store {
    /// Of the switchmaster that was measured.
    build: u64,
    pub versions: Vec<String>,
    parts: BTreeMap<String, Value>,
}

impl Store {
    /// What was kept of this build; nothing if there is none, or if it is to begin anew.
    pub fn open(anew: bool) -> Result<Store, Failure> {
        let mut hasher = DefaultHasher::new();
        fs::read(env!("CARGO_BIN_EXE_switchmaster"))?.hash(&mut hasher);
        let build = hasher.finish();
        let kept = fs::read(path()).ok().and_then(|text| serde_json::from_slice::<Store>(&text).ok());
        let kept = kept.filter(|kept| !anew && kept.build == build);
        Ok(kept.unwrap_or(Store { build, ..Store::default() }))
    }

    /// The result of a part.
    pub fn get<T: DeserializeOwned>(&self, part: &str) -> Option<T> {
        serde_json::from_value(self.parts.get(part)?.clone()).ok()
    }

    /// Keeps the result of a part.
    pub fn keep(&mut self, part: &str, result: &impl Serialize) -> Result<(), Failure> {
        self.parts.insert(part.to_owned(), serde_json::to_value(result)?);
        Ok(fs::write(path(), serde_json::to_vec_pretty(self)?)?)
    }
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.json")
}
