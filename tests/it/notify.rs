//! The webhook and the heartbeat of a real proxy, taken by a server that fails, hangs and breaks off before it answers.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use switchmaster::callout::Address;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::proxy;
use crate::support::stage::Stage;

const LIMIT: Duration = Duration::from_secs(60);
/// What nobody but the server may see.
const SECRET: &str = "T0-s3cret-path";

/// How one request is met.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Status(u16),
    BreakOff,
    Hang,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Takes requests, and answers each in the next way that it is given; then with 200.
struct Receiver {
    addr: String,
    taken: Arc<Mutex<Vec<(String, String)>>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    async fn start(answers: &[Answer]) -> Receiver {
        Receiver::with(None, answers).await
    }

    async fn with(tls: Option<TlsAcceptor>, answers: &[Answer]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let taken = Arc::<Mutex<Vec<_>>>::default();
        let (book, mut answers) = (taken.clone(), VecDeque::from(answers.to_vec()));
        let task = tokio::spawn(async move {
            let mut hanging = Vec::new();
            while let Ok((conn, _)) = listener.accept().await {
                let mut conn: Box<dyn Stream> = match &tls {
                    None => Box::new(conn),
                    Some(tls) => match tls.accept(conn).await {
                        Ok(conn) => Box::new(conn),
                        Err(_) => continue,
                    },
                };
                let Some(request) = read(&mut conn).await else { continue };
                book.lock().unwrap().push(request);
                let status = match answers.pop_front().unwrap_or(Answer::Status(200)) {
                    Answer::Status(status) => status,
                    Answer::BreakOff => continue,
                    Answer::Hang => {
                        hanging.push(conn);
                        continue;
                    }
                };
                let _ = conn.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            }
        });
        Receiver { addr, taken, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr)
    }

    fn taken(&self) -> Vec<(String, String)> {
        self.taken.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    async fn wait_for(&self, count: usize) -> Vec<(String, String)> {
        until("calls", LIMIT, async || match self.taken() {
            taken if taken.len() >= count => Ok(taken),
            taken => Err(format!("{taken:?}")),
        })
        .await
        .unwrap()
    }
}

/// Head and body of a request; `None` if it ends before.
async fn read(conn: &mut Box<dyn Stream>) -> Option<(String, String)> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0usize) {
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let mut part = [0; 4096];
        match conn.read(&mut part).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => request.extend_from_slice(&part[..length]),
        }
    }
}

#[tokio::test]
async fn a_failover_is_posted_until_it_is_taken_and_hearts_beat_meanwhile() {
    let webhook = Receiver::start(&[Answer::Status(500), Answer::BreakOff, Answer::Hang]).await;
    let heart = Receiver::start(&[Answer::Hang, Answer::Status(503)]).await;
    let (hook, beat) = (webhook.url(SECRET), heart.url(SECRET));
    let settings = [
        ("SWITCHMASTER_WEBHOOK_URL", hook.as_str()),
        ("SWITCHMASTER_HEARTBEAT_URL", beat.as_str()),
        ("SWITCHMASTER_HEARTBEAT_INTERVAL", "1s"),
    ];
    let stage = Stage::with(ClusterSpec::with_password("secret"), &settings).await;
    let mut client = stage.open().await;
    let (_, new) = stage.fail_over().await;
    webhook.wait_for(3).await;
    // The third try hangs, and a heartbeat has hung: nobody else notices.
    assert_eq!(client.ask(&["SET", "key", "1"]).await.unwrap().text(), Some("OK"));
    let taken = webhook.wait_for(4).await;
    let (head, body) = &taken[3];
    assert!(head.starts_with(&format!("POST /{SECRET} HTTP/1.1")) && head.contains("application/json"), "{head}");
    let notice: Value = serde_json::from_str(body).unwrap();
    let to = stage.cluster.node_addr(new).to_string();
    assert_eq!((&notice["event"], &notice["master_name"]), (&"failover".into(), &"mymaster".into()));
    assert_eq!((&notice["failover"]["kind"], &notice["failover"]["to"]), (&"planned".into(), &to.into()));
    let phases = notice["failover"]["phases"].as_array().unwrap();
    assert!(phases.iter().any(|phase| phase[0] == "hold"), "{notice}");
    assert!(notice["text"].as_str().unwrap().contains("planned failover from"), "{notice}");
    assert!(taken.iter().all(|(_, other)| other == body), "the same each time");
    let beats = heart.wait_for(4).await;
    assert!(beats.iter().all(|(head, body)| head.starts_with("GET /") && body.is_empty()), "{beats:?}");
    let shown = serde_json::to_string(&proxy::view(&stage.proxy).await).unwrap();
    for text in [stage.proxy.log(), shown, stage.metrics().await, body.clone()] {
        assert!(!text.contains(SECRET) && !text.contains("secret"), "{text}");
    }
    assert!(stage.proxy.log().contains("webhook: it answered 500"), "{}", stage.proxy.log());
}

#[tokio::test]
async fn no_master_is_posted_and_the_heart_stops() {
    let webhook = Receiver::start(&[]).await;
    let heart = Receiver::start(&[]).await;
    let (hook, beat) = (webhook.url(""), heart.url(""));
    let settings = [
        ("SWITCHMASTER_WEBHOOK_URL", hook.as_str()),
        ("SWITCHMASTER_HEARTBEAT_URL", beat.as_str()),
        ("SWITCHMASTER_HEARTBEAT_INTERVAL", "1s"),
        ("SWITCHMASTER_HOLD_TIMEOUT", "1s"),
    ];
    let mut spec = ClusterSpec::with_password("secret");
    spec.replicas = 0;
    let stage = Stage::with(spec, &settings).await;
    heart.wait_for(1).await;
    stage.cluster.node(0).kill9();
    let taken = webhook.wait_for(1).await;
    let notice: Value = serde_json::from_str(&taken[0].1).unwrap();
    assert_eq!(notice["event"], "no_master", "{notice}");
    let before = heart.taken().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(heart.taken().len() <= before + 1, "one may have been under way");
}

#[tokio::test]
async fn a_good_backup_beats_and_one_that_failed_is_posted() {
    let cluster = Cluster::start(ClusterSpec::with_password("secret")).await.unwrap();
    let (webhook, heart) = (Receiver::start(&[Answer::Status(500)]).await, Receiver::start(&[]).await);
    let (hook, beat) = (webhook.url(SECRET), heart.url(SECRET));
    let dir = tempfile::tempdir().unwrap();
    let create = async |store: &Path| {
        let mut environment = proxy::spec(&cluster).environment;
        let store = format!("file://{}", store.display());
        let more = [("WEBHOOK_URL", &hook), ("BACKUP_HEARTBEAT_URL", &beat), ("BACKUP_STORE", &store)];
        environment.extend(more.map(|(name, value)| (format!("SWITCHMASTER_{name}"), value.clone())));
        let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        proxy::run(&["backup", "create"], &environment).await
    };
    fs::create_dir(dir.path().join("store")).unwrap();
    let made = create(&dir.path().join("store")).await;
    assert!(made.status.success(), "{made:?}");
    assert_eq!((heart.taken().len(), webhook.taken().len()), (1, 0));

    fs::write(dir.path().join("file"), "").unwrap();
    let failed = create(&dir.path().join("file/store")).await;
    let taken = webhook.taken();
    assert_eq!((taken.len(), heart.taken().len()), (2, 1), "refused, and tried again: {failed:?}");
    let notice: Value = serde_json::from_str(&taken[1].1).unwrap();
    assert_eq!((&notice["event"], &notice["exit_code"]), (&"backup_failed".into(), &failed.status.code().into()));
    let printed = String::from_utf8_lossy(&failed.stderr);
    assert!(!printed.contains(SECRET) && !taken[1].1.contains(SECRET), "{printed} {notice}");
}

#[tokio::test]
async fn a_call_says_in_few_words_why_nobody_took_it() {
    let server = Receiver::start(&[Answer::Status(404), Answer::BreakOff, Answer::Hang]).await;
    let address = Address::parse(&server.url(SECRET)).unwrap();
    let call = async || address.call(None, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(call().await, "it answered 404");
    assert_eq!(call().await, "it broke off");
    assert_eq!(call().await, "no answer within 0.3 s");
    let nobody = Address::parse("http://127.0.0.1:1/").unwrap();
    assert_eq!(nobody.call(None, LIMIT).await.unwrap_err(), "no connection: connection refused");
    // What answers there speaks no TLS.
    let plain = Address::parse(&server.url("").replace("http:", "https:")).unwrap();
    let refused = plain.call(None, Duration::from_secs(5)).await.unwrap_err();
    assert!(refused.starts_with("TLS: ") || refused.starts_with("no answer"), "{refused}");
}

/// Makes a key and a certificate of `localhost` that nobody else has signed, `NAME.pem` both, for a server.
async fn certificate(dir: &Path, name: &str) -> TlsAcceptor {
    let (request, file) = (dir.join("request"), dir.join(name));
    let asked = "[req]\nprompt = no\ndistinguished_name = name\nx509_extensions = more\n[name]\nCN = localhost\n\
                 [more]\nsubjectAltName = DNS:localhost\nbasicConstraints = critical, CA:FALSE\n";
    fs::write(&request, asked).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.arg("-config").arg(request).arg("-out").arg(&file).arg("-keyout").arg(dir.join("key"));
    let made = openssl.output().await.expect("openssl is needed (ci/install-deps test)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificate = CertificateDer::from_pem_file(file).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()).into()
}

#[tokio::test]
async fn https_is_spoken_with_those_whom_the_system_trusts() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = Receiver::with(Some(certificate(dir.path(), "trusted.pem").await), &[]).await;
    let stranger = Receiver::with(Some(certificate(dir.path(), "stranger.pem").await), &[]).await;
    let url = |server: &Receiver| server.url(SECRET).replace("http://127.0.0.1:", "https://localhost:");
    let (hook, beat) = (url(&stranger), url(&trusted));
    let certificates = dir.path().join("trusted.pem").display().to_string();
    let settings = [
        ("SSL_CERT_FILE", certificates.as_str()),
        ("SWITCHMASTER_WEBHOOK_URL", hook.as_str()),
        ("SWITCHMASTER_HEARTBEAT_URL", beat.as_str()),
        ("SWITCHMASTER_HEARTBEAT_INTERVAL", "1s"),
    ];
    let stage = Stage::with(ClusterSpec::with_password("secret"), &settings).await;
    trusted.wait_for(2).await;
    stage.fail_over().await;
    until("a refusal", LIMIT, async || match stage.proxy.log() {
        log if log.contains("webhook: TLS: invalid peer certificate") => Ok(()),
        log => Err(log),
    })
    .await
    .unwrap();
    assert!(stranger.taken().is_empty(), "{:?}", stranger.taken());
    assert!(!stage.proxy.log().contains(SECRET), "{}", stage.proxy.log());
}
