//! An S3 service in this process (s3s-fs, which checks signatures) with a bucket, and faults that can be switched.
//!
//! Everything is written below a temporary folder, so a test can also look at the bytes themselves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::PutObjectInput;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Request, S3Result};
use switchmaster::backup::store::{Limits, Store};
use switchmaster::config::{BackupConfig, Location};
use switchmaster::secret::Secret;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub const BUCKET: &str = "backups";
pub const KEY_ID: &str = "AKIATEST";
pub const SECRET: &str = "a-secret-for-tests";

/// The service. It ends when this is dropped.
pub struct Bucket {
    pub addr: SocketAddr,
    pub faults: Arc<Faults>,
    folder: TempDir,
    _serving: JoinSet<()>,
}

/// What the service does wrong; all at once may be on.
#[derive(Default)]
pub struct Faults {
    /// Uploads (PUT) are not answered while this is on.
    pub stall_uploads: AtomicBool,
    /// So many were not answered at first.
    pub stalled: AtomicUsize,
    /// Nothing may be written: the key is one for reading.
    pub refuse_uploads: AtomicBool,
    /// The connection is closed instead of an answer, for this many requests.
    pub cut: AtomicUsize,
    /// Answered 500, for this many requests.
    pub errors: AtomicUsize,
    /// Only requests whose path and query contain this are concerned by `stall_uploads`, `cut` and `errors`; empty: all.
    pub only: Mutex<String>,
    /// Conditional writes are refused as not implemented.
    pub refuse_conditions: AtomicBool,
    /// Conditional writes are done as if there was no condition.
    pub ignore_conditions: AtomicBool,
    /// Answers to downloads stop in the middle of the body.
    pub stall_downloads: AtomicBool,
    /// s3s-fs looks and then writes; a real service does both at once, and so does this one.
    conditions: tokio::sync::Mutex<()>,
}

impl Bucket {
    pub async fn start() -> Bucket {
        Bucket::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(addr: &str) -> Bucket {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let faults = Arc::new(Faults::default());
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        builder.set_access(Conditions(faults.clone()));
        let service = builder.build();
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, service, faults.clone()));
        Bucket { addr, faults, folder, _serving: serving }
    }

    /// A configuration that reaches it.
    pub fn config(&self) -> BackupConfig {
        BackupConfig {
            store: Some(Location::parse(&format!("s3://{BUCKET}/some/prefix")).unwrap()),
            s3_endpoint: Some(format!("http://{}", self.addr)),
            s3_access_key_id: Some(KEY_ID.to_owned()),
            s3_secret_access_key: Some(Secret::new(SECRET)),
            ..BackupConfig::default()
        }
    }

    pub fn store(&self) -> Store {
        Store::with_limits(&self.config(), None, limits()).unwrap()
    }

    /// Where an object lies on the disk.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join("some/prefix").join(name)
    }
}

/// Small enough for tests, large enough for a busy machine.
pub fn limits() -> Limits {
    Limits { stall: Duration::from_secs(20), part_bytes: 5 << 20, ..Limits::default() }
}

async fn serve(listener: TcpListener, service: S3Service, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (service, faults) = (service.clone(), faults.clone());
        connections.spawn(async move {
            let answer = service_fn(move |request| answer(request, service.clone(), faults.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// An error closes the connection.
async fn answer(request: Request<Incoming>, service: S3Service, faults: Arc<Faults>) -> Result<Response<Body>, Cut> {
    let upload = request.method() == Method::PUT;
    let conditional = request.headers().contains_key("if-none-match");
    let concerned = request.uri().to_string().contains(faults.only.lock().unwrap().as_str());
    if upload && concerned && faults.stall_uploads.load(Ordering::Relaxed) {
        faults.stalled.fetch_add(1, Ordering::Relaxed);
    }
    while upload && concerned && faults.stall_uploads.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if upload && faults.refuse_uploads.load(Ordering::Relaxed) {
        return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    if conditional && faults.refuse_conditions.load(Ordering::Relaxed) {
        return Ok(refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented"));
    }
    if concerned && take(&faults.errors) {
        return Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
    }
    if concerned && take(&faults.cut) {
        return Err(Cut);
    }
    let download = request.method() == Method::GET && !request.uri().to_string().contains("list-type");
    let _turn = if conditional { Some(faults.conditions.lock().await) } else { None };
    let answered = service.call(request.map(Body::from)).await.map_err(|_| Cut)?;
    if download && faults.stall_downloads.load(Ordering::Relaxed) {
        let (parts, _) = answered.into_parts();
        return Ok(Response::from_parts(parts, Body::http_body_unsync(Never)));
    }
    Ok(answered)
}

fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let body =
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>a fault of the test</Message></Error>");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

/// The connection ends without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut by the test")
    }
}

impl std::error::Error for Cut {}

/// A body that never comes.
struct Never;

impl hyper::body::Body for Never {
    type Data = hyper::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// Takes the condition out of a write when told to.
struct Conditions(Arc<Faults>);

impl S3Access for Conditions {
    fn put_object<'a, 'b, 'c>(
        &'a self,
        request: &'b mut S3Request<PutObjectInput>,
    ) -> Pin<Box<dyn Future<Output = S3Result<()>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        if self.0.ignore_conditions.load(Ordering::Relaxed) {
            request.input.if_none_match = None;
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
