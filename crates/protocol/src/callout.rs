//! One HTTP request to an address of the user's: a webhook, a heartbeat; and what a webhook is sent.
//!
//! One attempt, within a limit; nothing is retried here, no redirect is followed, and what is answered is not read beyond its
//! status. The address is a secret (whoever has it may post there): it is in no error and no `Debug`.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::rt::{Read, Write};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use crate::host;
use crate::net::Connector;
use crate::secret::Secret;

/// How long one call should be waited for.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// What an address may look like, for refusals.
pub const EXPECTED: &str = "http://HOST/PATH or https://HOST/PATH, without user and password";

/// An `http://` or `https://` address.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Secret);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Address {
    /// Reads one; `None` when it is none.
    pub fn parse(text: &str) -> Option<Address> {
        let uri: Uri = text.parse().ok()?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let is_bare = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        (is_http && has_host && is_bare).then(|| Address(Secret::new(text)))
    }

    /// What is masked when the configuration is shown.
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// POSTs JSON, or GETs where there is none. `Err` says in a few words why nobody took it.
    pub async fn call(&self, json: Option<String>, limit: Duration) -> Result<(), String> {
        let asked = tokio::time::timeout(limit, self.ask(json)).await;
        let status = asked.map_err(|_| format!("no answer within {} s", limit.as_secs_f64()))??;
        if (200..300).contains(&status) { Ok(()) } else { Err(format!("it answered {status}")) }
    }

    async fn ask(&self, json: Option<String>) -> Result<u16, String> {
        let uri: Uri = self.0.reveal().parse().map_err(|_| "no address".to_owned())?;
        let (host, is_tls) = (uri.host().unwrap_or_default(), uri.scheme_str() == Some("https"));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let found = tokio::net::lookup_host((bare, port)).await.map_err(|_| "its host is not found".to_owned())?;
        let mut conn = Err("its host has no address".to_owned());
        for addr in found {
            conn = Connector::DEFAULT.connect(addr).await.map_err(|error| format!("no connection: {}", error.kind()));
            if conn.is_ok() {
                break;
            }
        }
        let request = Request::builder()
            .method(if json.is_some() { Method::POST } else { Method::GET })
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, uri.authority().map_or(host, |authority| authority.as_str()))
            .header(header::USER_AGENT, "switchmaster")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json.unwrap_or_default())))
            .map_err(|_| "no address".to_owned())?;
        let conn = conn?;
        if !is_tls {
            return exchange(TokioIo::new(conn), request).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|_| "its host is no name for TLS".to_owned())?;
        let encrypted = TlsConnector::from(TLS.clone()).connect(name, conn).await;
        exchange(TokioIo::new(encrypted.map_err(|error| format!("TLS: {error}"))?), request).await
    }
}

/// What every webhook is sent. `text` is what Slack, Mattermost and the like show.
pub fn message(event: &str, master_name: Option<&str>, text: &str) -> serde_json::Value {
    let host = host::name();
    let text = format!("switchmaster on {host}: {text}");
    serde_json::json!({ "event": event, "text": text, "host": host, "master_name": master_name })
}

/// The certificates of the system, read once.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("the provider knows TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth())
});

async fn exchange<S: Read + Write + Unpin + 'static>(stream: S, request: Request<Full<Bytes>>) -> Result<u16, String> {
    let broken = |_: hyper::Error| "it broke off".to_owned();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => Ok(answer.map_err(broken)?.status().as_u16()),
        ended = connection => match ended {
            Ok(()) => Ok(answer.await.map_err(broken)?.status().as_u16()),
            Err(error) => Err(broken(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_http_and_is_never_shown() {
        for good in ["http://127.0.0.1:1/x?y=z", "https://hooks.example/T0/B0/s3cret", "http://[::1]/"] {
            let address = Address::parse(good).unwrap_or_else(|| panic!("{good}"));
            assert_eq!(format!("{address:?}"), "***");
        }
        for bad in ["", "hooks.example", "ftp://hooks.example/", "http:///x", "https://user:word@hooks.example/"] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_system_s_certificates_can_be_used() {
        assert!(TLS.alpn_protocols.is_empty());
    }
}
