//! Configuration through the real binary: folders of right and wrong ones, the order of sources, `config print`.
//!
//! The environment is cleared and `SWITCHMASTER_CONFIG` points at an empty file, so that nothing of this host counts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use switchmaster::config::{Config, KEYS, Sources};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/config");
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml");

#[test]
fn every_wrong_configuration_has_its_own_message_and_exits_64() {
    let cases = cases("invalid");
    assert!(cases.len() >= 40, "only {} fixtures were seen", cases.len());
    let mut wrong = Vec::new();
    let mut messages = BTreeSet::new();
    for case in &cases {
        let output = case.run("check");
        let told = text(&output.stderr);
        let expected = std::fs::read_to_string(case.path("expected")).unwrap_or_default();
        if told != expected || output.status.code() != Some(64) || !output.stdout.is_empty() {
            wrong.push(format!("{} ({:?}):\n{told}instead of:\n{expected}", case.name, output.status.code()));
        }
        assert!(!told.contains("hunter2"), "{} shows a secret: {told}", case.name);
        assert!(messages.insert(told), "{} has the message of another fixture", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_right_configuration_is_accepted_and_printed_as_expected() {
    let cases = cases("valid");
    assert!(cases.len() >= 10, "only {} fixtures were seen", cases.len());
    for case in &cases {
        let output = case.run("check");
        assert_eq!(output.status.code(), Some(0), "{}: {}", case.name, text(&output.stderr));
        let printed = text(&case.run("print").stdout);
        assert!(!printed.contains("hunter2"), "{} shows a secret: {printed}", case.name);
        let expected = std::fs::read_to_string(case.path("expected")).unwrap_or_default();
        assert!(!expected.is_empty(), "{} expects nothing", case.name);
        for line in expected.lines() {
            assert!(printed.lines().any(|printed| printed == line), "{}: no line {line:?} in\n{printed}", case.name);
        }
    }
}

#[test]
fn what_is_printed_parses_again_to_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    for case in cases("valid") {
        let printed = text(&case.run("print").stdout);
        let file = folder.path().join("printed.toml");
        std::fs::write(&file, &printed).unwrap();
        let again = Command::new(env!("CARGO_BIN_EXE_switchmaster"))
            .args(["config", "print", "--config"])
            .arg(&file)
            .env_clear()
            .output()
            .unwrap();
        assert_eq!(again.status.code(), Some(0), "{}: {}", case.name, text(&again.stderr));
        assert_eq!(values(&text(&again.stdout)), values(&printed), "{}", case.name);
    }
}

#[test]
fn the_example_equals_the_defaults_and_names_every_key() {
    let sources = Sources { config: Some(PathBuf::from(EXAMPLE)), ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().config, Config::default());
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    for key in KEYS {
        let mut names = vec![key.name.to_owned()];
        names.extend(key.has_file().then(|| format!("{}_file", key.name)));
        for name in names {
            let shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
            assert!(example.lines().any(shown), "config.example.toml does not show {name}");
        }
    }
    assert!(KEYS.len() >= 20);
}

#[test]
fn with_nothing_at_all_the_defaults_count() {
    let loaded = Config::load(&Sources::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    for key in KEYS {
        assert_eq!(loaded.origin(key.name).map(ToString::to_string).as_deref(), Some("default"), "{}", key.name);
    }
}

#[test]
fn each_source_yields_to_the_one_above_it() {
    let folder = tempfile::tempdir().unwrap();
    let (file, dotenv) = (folder.path().join("c.toml"), folder.path().join(".env"));
    std::fs::write(&file, "\nmaster_name = \"from-file\"\n").unwrap();
    std::fs::write(&dotenv, "APP=x\n\nREDIS_SENTINEL_SERVICE_NAME=from-dotenv\n").unwrap();
    let mut sources = Sources {
        flags: BTreeMap::from([
            ("master_name", vec!["from-flag".to_owned()]),
            ("laravel_env", vec![dotenv.display().to_string()]),
        ]),
        config: Some(file.clone()),
        environment: BTreeMap::from([
            ("SWITCHMASTER_MASTER_NAME".to_owned(), "from-own".into()),
            ("REDIS_SENTINEL_SERVICE_NAME".to_owned(), "from-environment".into()),
        ]),
        ..Sources::default()
    };
    let seen = |sources: &Sources| {
        let loaded = Config::load(sources).unwrap();
        (loaded.config.sentinel.master_name.clone(), loaded.origin("master_name").unwrap().to_string())
    };
    let pair = |name: &str, origin: String| (Some(name.to_owned()), origin);
    assert_eq!(seen(&sources), pair("from-flag", "flag --master-name".into()));
    sources.flags.remove("master_name");
    assert_eq!(seen(&sources), pair("from-own", "environment SWITCHMASTER_MASTER_NAME".into()));
    sources.environment.remove("SWITCHMASTER_MASTER_NAME");
    assert_eq!(seen(&sources), pair("from-environment", "environment REDIS_SENTINEL_SERVICE_NAME".into()));
    sources.environment.clear();
    assert_eq!(seen(&sources), pair("from-file", format!("file {} line 2", file.display())));
    sources.config = None;
    assert_eq!(seen(&sources), pair("from-dotenv", format!(".env {} line 3", dotenv.display())));
    sources.flags.clear();
    assert_eq!(seen(&sources), (None, "default".into()));
}

#[test]
fn every_flag_of_the_table_is_a_flag_of_the_command_line() {
    for verb in [&["serve"][..], &["status"], &["failover"], &["hold"], &["release"], &["demo"], &["config", "check"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_switchmaster")).args(verb).arg("--help").output().unwrap();
        let help = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{verb:?}");
        assert!(help.contains("Example"), "{verb:?} shows no example");
        for flag in KEYS.iter().filter_map(|key| key.flag) {
            assert!(help.contains(&format!("{flag} <")), "{verb:?} --help does not show {flag}");
        }
        assert!(!help.contains("password <"), "a secret as a flag:\n{help}");
    }
}

#[test]
fn the_names_of_sentinel_packages_are_shown_or_reported_by_check() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        std::fs::write(folder.path().join(".env"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_switchmaster"))
            .args(["config", "check", "--laravel-env", "."])
            .current_dir(folder.path())
            .env_clear()
            .env("SWITCHMASTER_CONFIG", "/dev/null")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        (self::text(&output.stdout), self::text(&output.stderr))
    };
    let (shown, warned) =
        check("REDIS_DRIVER=redis-sentinel\nREDIS_SENTINEL_HOST=a,b:7\nREDIS_SENTINEL_PASSWORD=hunter2\n");
    assert!(shown.contains("sentinels = [\"a:26379\", \"b:7\"]") && shown.contains(".env line 2"), "{shown}");
    assert!(shown.contains("redis_password = \"***\""), "{shown}");
    assert!(warned.contains("warning: ") && warned.contains("line 3: REDIS_SENTINEL_PASSWORD is taken"), "{warned}");
    assert!(!shown.contains("hunter2") && !warned.contains("hunter2"), "{shown}{warned}");
    let (_, warned) = check("APP=x\nREDIS_SENTINEL_ENDPOINTS=a:1\n");
    assert!(warned.contains("line 2: REDIS_SENTINEL_ENDPOINTS looks like a setting of Sentinel"), "{warned}");
    assert!(warned.contains("names no Sentinels"), "{warned}");
    let (_, warned) = check("REDIS_SENTINEL_HOSTS=a\nREDIS_SENTINEL_TIMEOUT=1\n");
    assert_eq!(warned, "");
}

/// With this file and this variable, if any.
fn config(action: &str, file: &str, variable: Option<(&str, &str)>) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c.toml"), file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
    command.args(["config", action, "--config", "c.toml"]).current_dir(folder.path()).env_clear().envs(variable);
    let output = command.output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_a_newer_version_knows_is_a_mistake_to_check_and_a_warning_to_all_else() {
    let newer = "pool = \"shared\"\ndurability = \"async\"\nmax_clients = 5\n\n[[upstream]]\nmaster_name = \"a\"\n";
    let (code, out, said) = config("check", newer, Some(("SWITCHMASTER_CRASH_VERDICT", "off")));
    assert_eq!((code, out.as_str()), (Some(64), ""));
    for part in [
        "line 1 column 1: unknown key pool; ",
        "line 2 column 1: unknown key durability; ",
        "line 5 column 3: unknown key upstream; ",
        "environment SWITCHMASTER_CRASH_VERDICT: unknown variable",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let (code, out, said) = config("print", newer, Some(("SWITCHMASTER_CRASH_VERDICT", "off")));
    assert!(code == Some(0) && out.contains("max_clients = 5"), "{out}{said}");
    assert_eq!(said.matches("warning: ").count(), 4, "{said}");

    // What is misspelt, or would be in plain text, is a mistake to all.
    for (file, variable) in [
        ("max_client = 5\npool = 1\n", None),
        ("tls = \"on\"\n", None),
        ("sentinel_tls_ca_file = \"/ca.pem\"\n", None),
        ("", Some(("SWITCHMASTER_TLS_CERT_FILE", "/cert.pem"))),
        ("", Some(("SWITCHMASTER_MAX_CLIENT", "5"))),
    ] {
        for action in ["check", "print"] {
            let (code, out, said) = config(action, file, variable);
            assert_eq!((code, out.as_str()), (Some(64), ""), "{action} {file}{variable:?}: {said}");
        }
    }
    assert_eq!(config("print", "tls = \"off\"\n", Some(("SWITCHMASTER_SENTINEL_TLS", "off"))).0, Some(0));
}

#[test]
fn check_says_who_has_a_port_already_and_what_to_do() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let file = format!("listen = [\"127.0.0.1:{port}\", \"unix:/run/x.sock\"]\nadmin = \"off\"\n");
    let (code, out, said) = config("check", &file, None);
    assert!(code == Some(0) && out.starts_with("the configuration is valid"), "{out}{said}");
    let who = format!("warning: listen: 127.0.0.1:{port} is taken by ");
    assert!(said.contains(&who) && said.contains(&format!("(pid {})", std::process::id())), "{said}");
    assert!(said.contains("another port") && said.contains("Unix socket"), "{said}");
    drop(held);
    assert_eq!(config("check", &file, None).2, "");
}

#[test]
fn wrong_usage_exits_64() {
    for args in [
        &["--nonsense"][..],
        &["nonsense"],
        &["config"],
        &["hold", "--for", "soon"],
        &["--password", "x"],
        &["--admin", "off", "--admin", "1"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_switchmaster")).args(args).env_clear().output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(text(&output.stderr).starts_with("switchmaster: "), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn the_default_file_counts_only_if_it_exists_and_no_other_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (default, other) = (folder.path().join("default.toml"), folder.path().join("other.toml"));
    let mut sources = Sources { default_file: Some(default.clone()), ..Sources::default() };
    let clients = |sources: &Sources| Config::load(sources).unwrap().config.max_clients;
    assert_eq!(clients(&sources), Config::default().max_clients);
    std::fs::write(&default, "max_clients = 1").unwrap();
    std::fs::write(&other, "max_clients = 2").unwrap();
    assert_eq!(clients(&sources), 1);
    sources.environment.insert("SWITCHMASTER_CONFIG".to_owned(), other.clone().into());
    assert_eq!(clients(&sources), 2);
    sources.config = Some(default);
    assert_eq!(clients(&sources), 1);
}

#[test]
fn a_password_reaches_the_configuration_and_no_debug_output() {
    let environment = [("SWITCHMASTER_REDIS_USERNAME", "app"), ("SWITCHMASTER_REDIS_PASSWORD", "hunter2")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.into()));
    let loaded = Config::load(&Sources { environment: environment.into(), ..Sources::default() }).unwrap();
    let auth = loaded.config.sentinel.redis_auth.as_ref().expect("credentials");
    assert_eq!((auth.username.as_deref(), auth.password.reveal()), (Some(&b"app"[..]), "hunter2"));
    assert!(!format!("{loaded:?}").contains("hunter2"));
}

/// A fixture: NAME.toml (the file), NAME.env (variables), NAME.args (one argument a line), any of them, and
/// NAME.expected.
struct Case {
    folder: PathBuf,
    name: String,
}

impl Case {
    fn path(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    fn run(&self, action: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchmaster"));
        command.current_dir(&self.folder).args(["config", action]).env_clear().env("SWITCHMASTER_CONFIG", "/dev/null");
        if self.path("toml").exists() {
            command.arg("--config").arg(format!("{}.toml", self.name));
        }
        for line in lines(&self.path("args")) {
            command.arg(line);
        }
        for line in lines(&self.path("env")) {
            let (name, value) = line.split_once('=').expect("NAME=value");
            command.env(name, value);
        }
        command.output().expect("the binary runs")
    }
}

fn cases(kind: &str) -> Vec<Case> {
    let folder = Path::new(FIXTURES).join(kind);
    let entries = std::fs::read_dir(&folder).expect("the folder of fixtures");
    let paths = entries.map(|entry| entry.unwrap().path());
    let input = |path: &PathBuf| path.extension().is_some_and(|ext| ["toml", "env", "args"].iter().any(|e| ext == *e));
    let names: BTreeSet<String> =
        paths.filter(input).map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    names.into_iter().map(|name| Case { folder: folder.clone(), name }).collect()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The lines of `config print` that set something, without the origins.
fn values(printed: &str) -> Vec<String> {
    let set = printed.lines().filter(|line| !line.starts_with('#'));
    set.map(|line| line.rsplit_once("  # ").expect("an origin").0.to_owned()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
