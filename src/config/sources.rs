//! The sources of a configuration in their order, and what comes out of merging them.
//!
//! The environment is a map handed in, so that tests need not change that of the process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::keys::{Draft, KEYS};
use super::layer::{Found, Layer};
use super::origin::Origin;
use super::problem::{Problem, Problems};
use super::value::Raw;
use super::{Config, check, environment, file, laravel};

/// Where the configuration comes from. No `Debug`: the environment may hold passwords.
#[derive(Clone, Default)]
pub struct Sources {
    /// Values of flags by the name of their key in [`super::KEYS`]; no entry for a flag that was not given.
    pub flags: BTreeMap<&'static str, Vec<String>>,
    /// `--config`; `None` falls to `SWITCHMASTER_CONFIG`, then to `default_file`.
    pub config: Option<PathBuf>,
    /// Read when it exists and no other file is named.
    pub default_file: Option<PathBuf>,
    /// The environment; variables whose names are not UTF-8 cannot be ours.
    pub environment: BTreeMap<String, OsString>,
}

/// A checked configuration that still knows where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the program runs on.
    pub config: Config,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// The Laravel `.env` that was read.
    pub laravel_env: Option<PathBuf>,
    /// What was assumed, or not understood; nothing of it is an error.
    pub warnings: Vec<Problem>,
    /// Keys and variables that this version does not know, and a newer one may: they have no effect. Whoever serves goes on
    /// without them, whoever checks the configuration refuses them.
    pub foreign: Vec<Problem>,
    /// Names in the `.env` that are about Redis and have no effect here: the application's own business.
    pub laravel_unused: Vec<String>,
    pub(super) draft: Draft,
    pub(super) origins: BTreeMap<&'static str, Origin>,
}

impl Sources {
    /// These flags over the environment of this process and `/etc/switchmaster/config.toml`.
    pub fn of_process(flags: BTreeMap<&'static str, Vec<String>>, config: Option<PathBuf>) -> Sources {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        Sources { flags, config, default_file: Some(PathBuf::from("/etc/switchmaster/config.toml")), environment }
    }

    pub(super) fn load(&self) -> Result<Loaded, Problems> {
        let (mut problems, mut warnings, mut foreign) = (Vec::new(), Vec::new(), Vec::new());
        let flags = self.flag_layer();
        let own = environment::own(&self.environment, &mut problems, &mut foreign);
        let guide = environment::laravel(&self.environment, &mut problems, &mut warnings);
        let file = self.file();
        let written =
            file.as_ref().map(|(path, origin)| file::read(path, origin.as_ref(), &mut problems, &mut foreign));
        let written = written.unwrap_or_default();
        let named = [&flags, &own, &written].into_iter().find_map(|layer| layer.get("laravel_env")).cloned();
        let mut laravel_unused = Vec::new();
        let dotenv = match &named {
            Some(Found { raw: Raw::Text(path), origin, .. }) if !path.is_empty() => {
                let unused = &mut laravel_unused;
                laravel::read(Path::new(path), origin, &self.environment, &mut problems, &mut warnings, unused)
            }
            _ => Layer::new(),
        };
        let inherited = environment::inherited(&self.environment);

        let layers = [&flags, &own, &guide, &written, &dotenv, &inherited];
        let (mut draft, origins) = merge(layers, &written, &mut problems);
        draft.config.admin_socket.look_around(&self.environment, draft.config.admin);
        if problems.is_empty() {
            check::complete(&mut draft, &origins, &mut problems);
        }
        if let (Some(named), Some(Origin::Default)) = (&named, origins.get("sentinels")) {
            let text = "it names no Sentinels, so that of this host is asked: set REDIS_SENTINEL_HOSTS in it";
            warnings.push(Problem::at(&named.origin, format!("laravel_env: {text}")));
        }
        match problems.is_empty() {
            true => Ok(Loaded {
                config: draft.config.clone(),
                file: file.map(|(path, _)| path),
                laravel_env: draft.laravel_env.clone(),
                warnings: Problems::in_order(warnings).0,
                foreign: Problems::in_order(foreign).0,
                laravel_unused,
                draft,
                origins,
            }),
            false => Err(Problems::in_order([problems, foreign].concat())),
        }
    }

    fn flag_layer(&self) -> Layer {
        let mut layer = Layer::new();
        for key in KEYS {
            if let (Some(flag), Some(values)) = (key.flag, self.flags.get(key.name)) {
                let raw = match values.as_slice() {
                    [value] => Raw::Text(value.clone()),
                    values => Raw::List(values.to_vec()),
                };
                layer.insert(key.name, Found { raw, origin: Origin::Flag(flag), read_from: None });
            }
        }
        layer
    }

    /// The file to read, and who named it; nobody did when it is the default one.
    fn file(&self) -> Option<(PathBuf, Option<Origin>)> {
        if let Some(path) = &self.config {
            return Some((path.clone(), Some(Origin::Flag("--config"))));
        }
        if let Some(path) = self.environment.get("SWITCHMASTER_CONFIG").filter(|path| !path.is_empty()) {
            return Some((PathBuf::from(path), Some(Origin::Environment("SWITCHMASTER_CONFIG".to_owned()))));
        }
        self.default_file.clone().filter(|path| path.exists()).map(|path| (path, None))
    }
}

impl Loaded {
    /// Where the value of the key `name` came from; `None` for a name that is no key.
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.origins.get(name)
    }

    /// Whether anything of it stands in a file: then it may be another when it is read again.
    pub fn reads_files(&self) -> bool {
        self.file.is_some() || self.laravel_env.is_some() || !self.draft.read_from.is_empty()
    }
}

/// The first of `layers` that names a key has its value. What the file says counts below others, but a mistake in it is
/// one all the same.
fn merge(layers: [&Layer; 6], written: &Layer, problems: &mut Vec<Problem>) -> (Draft, BTreeMap<&'static str, Origin>) {
    let mut draft = Draft::default();
    let mut origins = BTreeMap::new();
    for key in KEYS {
        let found = layers.into_iter().find_map(|layer| layer.get(key.name));
        if let Some(below) = written.get(key.name).filter(|below| found.is_some_and(|f| f.origin != below.origin)) {
            refuse_into(problems, key.name, below, (key.set)(&mut Draft::default(), &below.raw));
        }
        if let Some(found) = found {
            refuse_into(problems, key.name, found, (key.set)(&mut draft, &found.raw));
            if let Some(path) = &found.read_from {
                draft.read_from.insert(key.name, path.clone());
            }
        }
        origins.insert(key.name, found.map_or(Origin::Default, |found| found.origin.clone()));
    }
    (draft, origins)
}

fn refuse_into(problems: &mut Vec<Problem>, key: &str, found: &Found, result: Result<(), String>) {
    if let Err(why) = result {
        problems.push(Problem::at(&found.origin, format!("{key}: {why}")));
    }
}
