//! A running switchmaster, asked over its admin address: what it sees, and orders to it.
//!
//! One connection for each question, and none waits for ever; what comes back is read as [`crate::status`] and
//! [`crate::control`] say.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;

use crate::control::{Control, HEADER};
use crate::net::{Connector, ListenAddr};
use crate::secret::Secret;
use crate::status::{Recent, View};

/// How long an answer may take; longer than the server waits for a command's own answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A longer answer is not from a switchmaster.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Why a switchmaster could not be asked.
#[derive(Debug)]
pub enum Error {
    /// The admin address could not be reached.
    Unreachable(ListenAddr, std::io::Error),
    /// What answered there is not a switchmaster, or broke off.
    Garbled(ListenAddr, String),
    /// switchmaster said no, and why.
    Refused(String),
    /// The configuration that it has read again is wrong.
    Misconfigured(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unreachable(addr, error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                write!(f, "nobody listens at {addr}: is switchmaster running, and with this admin address?")
            }
            Error::Unreachable(addr, error) => {
                write!(f, "cannot reach switchmaster at {addr}: {error}")
            }
            Error::Garbled(addr, what) => {
                write!(f, "what listens at {addr} does not answer as switchmaster does: {what}")
            }
            Error::Refused(why) | Error::Misconfigured(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// A running switchmaster, as it is reached from outside.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its admin address, or its admin socket.
    pub admin: ListenAddr,
    /// Its `admin_token`, which orders over TCP need. It is sent with nothing else, and never over a Unix socket.
    pub token: Option<Secret>,
}

impl From<SocketAddr> for Remote {
    fn from(admin: SocketAddr) -> Remote {
        Remote { admin: ListenAddr::Tcp(admin), token: None }
    }
}

impl From<PathBuf> for Remote {
    fn from(socket: PathBuf) -> Remote {
        Remote { admin: ListenAddr::Unix(socket), token: None }
    }
}

impl Remote {
    /// What it sees now.
    pub async fn look(&self) -> Result<View, Error> {
        self.read(&self.status().await?)
    }

    /// The same as it says it: one line of JSON.
    pub async fn status(&self) -> Result<String, Error> {
        self.fetch(Method::GET, "/status.json").await
    }

    /// The last minutes, with what it sees now.
    pub async fn recent(&self) -> Result<Recent, Error> {
        let text = self.fetch(Method::GET, "/history.json").await?;
        serde_json::from_str(&text).map_err(|error| Error::Garbled(self.admin.clone(), error.to_string()))
    }

    /// Whether it is ready, as `/ready` says it, and why. Counts as a probe: after a bad one it takes two good ones.
    pub async fn ready(&self) -> Result<(bool, String), Error> {
        let (status, text) = self.exchange(Method::GET, "/ready").await?;
        Ok((status.is_success(), text.trim_end().to_owned()))
    }

    /// Reads a [`Remote::status`].
    pub fn read(&self, status: &str) -> Result<View, Error> {
        serde_json::from_str(status).map_err(|error| Error::Garbled(self.admin.clone(), error.to_string()))
    }

    /// Gives an order and returns what was done, in the server's words. A second hold takes the place of the first.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Misconfigured`] when it was not carried out; and what a [`Remote::look`] may end in.
    pub async fn order(&self, control: &Control) -> Result<String, Error> {
        let answer = self.fetch(Method::POST, &control.path()).await?;
        message(&answer).ok_or_else(|| Error::Garbled(self.admin.clone(), "an answer without a message".into()))
    }

    /// The body of an answer with a good status.
    async fn fetch(&self, method: Method, path: &str) -> Result<String, Error> {
        let (status, text) = self.exchange(method, path).await?;
        if status.is_success() {
            return Ok(text);
        }
        Err(match message(&text) {
            Some(message) if status == StatusCode::UNPROCESSABLE_ENTITY => Error::Misconfigured(message),
            Some(message) => Error::Refused(message),
            None => Error::Garbled(self.admin.clone(), format!("{status}: {}", text.lines().next().unwrap_or(""))),
        })
    }

    /// Any answer.
    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, String), Error> {
        let admin = &self.admin;
        let garbled = |what: &dyn fmt::Display| Error::Garbled(admin.clone(), what.to_string());
        let conversation = async {
            let unreachable = |error| Error::Unreachable(admin.clone(), error);
            let stream = Connector::DEFAULT.connect_to(admin).await.map_err(unreachable)?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| garbled(&error))?;
            let host = match admin {
                ListenAddr::Tcp(addr) => addr.to_string(),
                ListenAddr::Unix(_) => "localhost".into(),
            };
            let is_order = method == Method::POST;
            let mut request =
                Request::builder().method(method).uri(path).header(header::HOST, host).header(HEADER, "1");
            if let (Some(token), ListenAddr::Tcp(_), true) = (&self.token, admin, is_order) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.reveal()));
            }
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| garbled(&error))?;
            let exchange = async {
                let response = sender.send_request(request).await.map_err(|error| garbled(&error))?;
                let status = response.status();
                let body = Limited::new(response.into_body(), LONGEST_ANSWER)
                    .collect()
                    .await
                    .map_err(|error| garbled(&error))?;
                Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
            };
            // The connection's own end is of no interest once the answer is here.
            tokio::pin!(exchange);
            tokio::select! {
                answer = &mut exchange => answer,
                ended = connection => match ended {
                    Ok(()) => exchange.await,
                    Err(error) => Err(garbled(&error)),
                },
            }
        };
        let patience = || garbled(&format!("no answer within {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, conversation).await.unwrap_or_else(|_| Err(patience()))
    }
}

/// The `message` of a command's answer.
fn message(text: &str) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    Some(answer.get("message")?.as_str()?.to_string())
}
