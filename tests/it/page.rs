//! The status page of a real proxy, opened in a real browser: it shows what is there, asks nobody else, and fits a phone.
//!
//! Where no Chromium is installed it says so. `SWITCHMASTER_SCREENSHOTS=DIR` keeps pictures of what the browser saw.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use switchmaster::demo::cluster::{ClusterSpec, until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::stage::Stage;

const LIMIT: Duration = Duration::from_secs(40);

#[tokio::test]
async fn the_page_is_whole_light_and_dark_at_a_desk_and_on_a_phone_in_a_failover_too() {
    let Some(mut browser) = Browser::start().await else {
        eprintln!("skipped: no chromium is installed (apt-get install chromium, or ci/install-deps test)");
        return;
    };
    let settings = [("SWITCHMASTER_HOLD_TIMEOUT", "25s")];
    let stage = Stage::with(ClusterSpec::with_password("secret"), &settings).await;
    let mut client = stage.open().await;
    client.ask(&["SET", "key", "value"]).await.unwrap();
    stage.fail_over().await;
    stage.settled().await;
    let url = format!("http://{}/", stage.proxy.admin());
    let master = stage.cluster.node_addr(stage.cluster.who_is_master().await.unwrap()).to_string();
    for theme in ["light", "dark"] {
        for (device, width) in [("desktop", 1280), ("phone", 390)] {
            browser.open(&url, theme, width).await;
            browser.wait_for(&[&master, "3 of 3 agree", "link up", "planned", "hold ", "REQUESTS PER SECOND"]).await;
            browser.wait_until("document.querySelectorAll('.outage').length >= 4").await;
            browser.wait_until("document.querySelectorAll('.event .bar i.hold').length >= 1").await;
            browser.check(width).await;
            browser.picture(&format!("calm-{theme}-{device}")).await;
        }
    }
    // Frozen for so long that the Sentinels notice: the page shows it while it lasts.
    stage.cluster.nodes().iter().for_each(|node| _ = node.stop());
    browser.wait_for(&["outage for"]).await;
    client.send(b"GET key\r\n").await.unwrap();
    browser.wait_until("document.querySelectorAll('#pause .outage').length > 1").await;
    for (theme, device, width) in [("dark", "phone", 390), ("light", "desktop", 1280)] {
        browser.open(&url, theme, width).await;
        browser.wait_for(&["outage for", "held\n1"]).await;
        browser.check(width).await;
        browser.picture(&format!("outage-{theme}-{device}")).await;
    }
    stage.cluster.nodes().iter().for_each(|node| _ = node.cont());
    assert_eq!(client.receive().await.unwrap().text(), Some("value"), "it was held");
    let wrong = browser.events.iter().filter(|event| is_error(event)).collect::<Vec<_>>();
    assert!(wrong.is_empty(), "{wrong:?}");
    let asked: Vec<&str> =
        browser.events.iter().filter_map(|event| event["params"]["request"]["url"].as_str()).collect();
    assert!(asked.len() > 8, "{asked:?}");
    assert!(asked.iter().all(|other| other.starts_with(&url) || *other == "data:,"), "{asked:?}");
}

fn is_error(event: &Value) -> bool {
    let is_log = event["method"] == "Log.entryAdded" && event["params"]["entry"]["level"] == "error";
    is_log || event["method"] == "Runtime.exceptionThrown"
}

/// A headless Chromium with one page, spoken to over its two pipes; ended when dropped.
struct Browser {
    _process: Child,
    _dir: tempfile::TempDir,
    to: pipe::Sender,
    from: BufReader<pipe::Receiver>,
    session: String,
    number: u64,
    events: Vec<Value>,
}

impl Browser {
    /// `None` where none is installed.
    async fn start() -> Option<Browser> {
        let mut binary = None;
        for name in ["google-chrome", "chromium"] {
            if Command::new(name).arg("--version").output().await.is_ok_and(|out| out.status.success()) {
                binary = Some(name);
            }
        }
        let (binary, dir) = (binary?, tempfile::tempdir().unwrap());
        let [to, from] = ["to", "from"].map(|name| dir.path().join(name));
        let made = Command::new("mkfifo").args([&to, &from]).status().await.unwrap();
        assert!(made.success());
        // The browser reads its descriptor 3 and writes its descriptor 4. Opened for both, a FIFO waits for nobody.
        let script = "exec 3<>\"$1\" 4<>\"$2\"; exec \"$0\" --headless --no-sandbox --disable-gpu --no-first-run \
                      --disable-dev-shm-usage --user-data-dir=\"$3\" --remote-debugging-pipe >/dev/null 2>&1";
        let mut process = Command::new("sh");
        process.args(["-c", script, binary]).args([&to, &from]).arg(dir.path().join("profile"));
        let process = process.kill_on_drop(true).spawn().unwrap();
        let to = pipe::OpenOptions::new().read_write(true).open_sender(&to).unwrap();
        let from = BufReader::new(pipe::OpenOptions::new().read_write(true).open_receiver(&from).unwrap());
        let mut browser =
            Browser { _process: process, _dir: dir, to, from, session: String::new(), number: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        Some(browser)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        loop {
            let mut answer = Vec::new();
            timeout(LIMIT, self.from.read_until(0, &mut answer)).await.expect(method).unwrap();
            let answer: Value = serde_json::from_slice(answer.strip_suffix(b"\0").unwrap()).unwrap();
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    async fn open(&mut self, url: &str, theme: &str, width: u32) {
        let metrics = json!({"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.call("Emulation.setEmulatedMedia", feature).await;
        self.call("Page.navigate", json!({"url": url})).await;
    }

    async fn evaluate(&mut self, expression: &str) -> Value {
        let found = self.call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true})).await;
        found["result"]["value"].clone()
    }

    /// Waits until all of it can be read on the page.
    async fn wait_for(&mut self, texts: &[&str]) {
        let started = std::time::Instant::now();
        loop {
            let shown = self.evaluate("document.body ? document.body.innerText : ''").await;
            let shown = shown.as_str().unwrap_or_default().to_owned();
            let missing: Vec<_> = texts.iter().filter(|text| !shown.contains(**text)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(started.elapsed() < LIMIT, "{missing:?} is not in\n{shown}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until an expression is true.
    async fn wait_until(&mut self, expression: &str) {
        let started = std::time::Instant::now();
        while self.evaluate(expression).await != true {
            assert!(started.elapsed() < LIMIT, "{expression} never is");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Nothing is wider than the window, and the colours are those of the theme.
    async fn check(&mut self, width: u32) {
        let wide = self.evaluate("document.documentElement.scrollWidth").await.as_u64().unwrap();
        assert!(wide <= u64::from(width), "{wide} of {width}");
        let is_dark = self.evaluate("matchMedia('(prefers-color-scheme: dark)').matches").await == true;
        let background = self.evaluate("getComputedStyle(document.body).backgroundColor").await;
        assert_eq!(background == "rgb(18, 22, 28)", is_dark, "{background}");
    }

    /// Keeps a picture where pictures are wanted.
    async fn picture(&mut self, name: &str) {
        let Some(dir) = std::env::var_os("SWITCHMASTER_SCREENSHOTS") else { return };
        let taken = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let encoded = taken["data"].as_str().unwrap();
        let file = std::fs::File::create(PathBuf::from(dir).join(format!("{name}.png"))).unwrap();
        let mut decode = Command::new("base64");
        let mut decoding = decode.arg("-d").stdin(std::process::Stdio::piped()).stdout(file).spawn().unwrap();
        decoding.stdin.take().unwrap().write_all(encoded.as_bytes()).await.unwrap();
        decoding.wait().await.unwrap();
    }
}

#[tokio::test]
async fn top_draws_on_a_terminal_of_80_by_24_in_calm_and_in_an_outage() {
    let stage = Stage::start().await;
    let top = Command::new(env!("CARGO_BIN_EXE_switchmaster"))
        .args(["top", "--admin", &stage.proxy.admin().to_string()])
        .output()
        .await
        .unwrap();
    assert_eq!(top.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&top.stderr).contains("draws on a terminal"), "{top:?}");
    if Command::new("tmux").arg("-V").output().await.is_err() {
        eprintln!("skipped: no tmux is installed (apt-get install tmux, or ci/install-deps test)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("tmux").display().to_string();
    let tmux = async |arguments: &[&str]| {
        let out = Command::new("tmux").args(["-S", &socket, "-f", "/dev/null"]).args(arguments).output().await.unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let command = format!("{} top --admin {}", env!("CARGO_BIN_EXE_switchmaster"), stage.proxy.admin());
    tmux(&["new-session", "-d", "-x", "80", "-y", "24", &command]).await;
    let shows = async |texts: &[&str]| {
        until("top", LIMIT, async || {
            let screen = tmux(&["capture-pane", "-p"]).await;
            let is_there = texts.iter().all(|text| screen.contains(text));
            let fits = screen.lines().count() <= 24 && screen.lines().all(|line| line.chars().count() <= 80);
            if is_there && fits { Ok(()) } else { Err(screen) }
        })
        .await
        .unwrap();
    };
    shows(&["switchmaster mymaster ok", "3 of 3 agree", "none since the start"]).await;
    stage.fail_over().await;
    shows(&["planned to "]).await;
    stage.cluster.nodes().iter().for_each(|node| _ = node.stop());
    shows(&["outage for"]).await;
    stage.cluster.nodes().iter().for_each(|node| _ = node.cont());
    tmux(&["send-keys", "q"]).await;
    until("its end", LIMIT, async || match tmux(&["list-sessions"]).await {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await
    .unwrap();
}
