//! A real Prometheus scrapes the real proxy, with the alert rules that we ship: the rules are right, and every query of them
//! and of the dashboard finds data.
//!
//! Where no Prometheus is installed it says so, and checks what can be checked without.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use switchmaster::demo::cluster::until;
use switchmaster::demo::server::free_port;
use tokio::process::{Child, Command};

use crate::support::proxy;
use crate::support::stage::Stage;

const LIMIT: Duration = Duration::from_secs(60);

fn contrib(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(file)
}

fn rules() -> String {
    fs::read_to_string(contrib("prometheus-rules.yml")).unwrap()
}

/// The expressions of the rules, as `bool` comparisons: without data they are empty, with data they are 0 or 1.
fn rule_queries() -> Vec<String> {
    let rules = rules();
    let expressions = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let as_bool = |expression: &str| {
        [" == ", " != ", " > ", " <= ", " < "].iter().fold(expression.to_owned(), |expression, operator| {
            expression.replace(operator, &format!("{operator}bool "))
        })
    };
    expressions.map(as_bool).collect()
}

/// The queries of the dashboard, for every instance and master.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(contrib("grafana-dashboard.json")).unwrap()).unwrap();
    let expressions = |target: &Value| target["expr"].as_str().unwrap().to_owned();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).map(expressions);
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter().map(expressions);
    let filled = |query: String| {
        ["$__rate_interval", "$__interval", "$__range"]
            .iter()
            .fold(query.replace("$instance", ".*").replace("$master", ".*"), |query, range| query.replace(range, "5m"))
    };
    targets.chain(annotations).map(filled).collect()
}

#[test]
fn each_alert_has_its_section_in_the_documents() {
    let operations = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let anchors: BTreeSet<String> =
        operations.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
    let rules = rules();
    let mut alerts = 0;
    for alert in rules.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let anchor = alert.split("runbook_url: \"docs/operations.md#").nth(1).and_then(|rest| rest.split('"').next());
        let anchor = anchor.unwrap_or_else(|| panic!("{name} has no runbook_url"));
        assert!(anchors.contains(anchor), "docs/operations.md has no section {anchor}");
        assert_eq!(anchor, name.to_lowercase());
        alerts += 1;
    }
    assert!(alerts > 15, "only {alerts} alerts");
}

#[tokio::test]
async fn prometheus_takes_the_rules_and_every_query_finds_data() {
    if Command::new("prometheus").arg("--version").output().await.is_err() {
        eprintln!("skipped: no prometheus is installed (apt-get install prometheus, or ci/install-deps test)");
        return;
    }
    let checked = Command::new("promtool").args(["check", "rules"]).arg(contrib("prometheus-rules.yml")).output().await;
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let stage = Stage::start().await;
    let mut client = stage.open().await;
    client.ask(&["SET", "key", "value"]).await.unwrap();
    let prometheus = Prometheus::start(&stage.proxy.admin().to_string()).await;
    // Rates want two scrapes, and the annotation of a failover one before and one after it.
    prometheus.wait_for("count_over_time(switchmaster_ready[5m]) >= 2").await;
    stage.fail_over().await;
    stage.settled().await;
    client.ask(&["GET", "key"]).await.unwrap();
    prometheus.wait_for("changes(switchmaster_last_failover_timestamp_seconds[5m]) > 0").await;
    prometheus.wait_for("count(switchmaster_replica_lag_seconds) == 2").await;
    let (rules, dashboard) = (rule_queries(), dashboard_queries());
    assert!(rules.len() > 15 && dashboard.len() > 20, "{} and {} queries", rules.len(), dashboard.len());
    for query in rules.iter().chain(&dashboard) {
        prometheus.wait_for(query).await;
    }
    let fired = prometheus.ask("ALERTS{alertname=\"SwitchmasterFailover\"}").await;
    assert!(!fired.is_empty(), "the rules are evaluated");
    assert!(proxy::view(&stage.proxy).await.counters.failovers_planned > 0);
}

/// A running Prometheus with one target; ended when dropped.
struct Prometheus {
    _process: Child,
    _dir: tempfile::TempDir,
    addr: String,
}

impl Prometheus {
    async fn start(target: &str) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{:?}]\nscrape_configs:\n  - job_name: \
             switchmaster\n    static_configs: [{{targets: [{target:?}]}}]\n",
            contrib("prometheus-rules.yml")
        );
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let addr = format!("127.0.0.1:{}", free_port().unwrap());
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Prometheus { _process: process, _dir: dir, addr }
    }

    /// The series of an instant query; none while it cannot be asked.
    async fn ask(&self, query: &str) -> Vec<Value> {
        let url = format!("http://{}/api/v1/query", self.addr);
        let asked = Command::new("curl")
            .args(["-sS", "--max-time", "5", &url, "--data-urlencode"])
            .arg(format!("query={query}"))
            .output()
            .await
            .expect("curl");
        let answer: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    async fn wait_for(&self, query: &str) {
        until(query, LIMIT, async || match self.ask(query).await {
            found if found.is_empty() => Err("no data".to_owned()),
            _ => Ok(()),
        })
        .await
        .unwrap();
    }
}
