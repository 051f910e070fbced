//! Who gives no command: pages in a browser, other processes of this host, a crowd that would keep others from it.

use std::time::Duration;

use switchmaster::admin::Options;
use switchmaster::control::Control;
use switchmaster::remote::Remote;
use switchmaster::secret::Secret;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Fixture, TOKEN};

#[tokio::test]
async fn a_web_page_cannot_give_a_command() {
    let fixture = Fixture::start().await;
    let own = fixture.addr;
    let form = |kind: &str| format!("Host: {own}\r\nContent-Type: {kind}\r\n");
    for (what, headers) in [
        ("a form of another site", format!("Host: {own}\r\nOrigin: http://evil.example\r\n")),
        ("a form that says nothing", form("application/x-www-form-urlencoded")),
        ("a form of text", form("text/plain")),
        ("a form with a file", form("multipart/form-data; boundary=x")),
        ("a script with the header", format!("Host: {own}\r\nX-Switchmaster: 1\r\nOrigin: null\r\n")),
        ("a fetch without Origin", format!("Host: {own}\r\nX-Switchmaster: 1\r\nSec-Fetch-Site: cross-site\r\n")),
        (
            "a page of a name that was pointed here",
            format!("Host: evil.example:{}\r\nX-Switchmaster: 1\r\n", own.port()),
        ),
        ("a page of this very server", format!("Host: {own}\r\nX-Switchmaster: 1\r\nOrigin: http://{own}\r\n")),
        ("no header of ours", format!("Host: {own}\r\n")),
        ("no host", "X-Switchmaster: 1\r\n".into()),
    ] {
        // Even if it had found out the token.
        for token in ["", &format!("Authorization: Bearer {TOKEN}\r\n")] {
            for path in ["/control/failover", "/control/hold?for=300s", "/control/release", "/control/reload"] {
                let answer = fixture.post(path, &(headers.clone() + token)).await;
                assert_eq!(answer.status, 403, "{what}, {path}: {answer:?}");
                let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                assert_eq!(json["status"], "error", "{what}");
                assert!(!answer.head.contains("access-control"), "{}", answer.head);
            }
        }
    }
    let preflight = format!("OPTIONS /control/failover HTTP/1.1\r\nHost: {own}\r\nOrigin: http://evil.example\r\n\r\n");
    let answer = fixture.ask(&preflight).await;
    assert_eq!(answer.status, 405);
    assert!(!answer.head.contains("access-control"), "{}", answer.head);
    assert_eq!(fixture.commands(), []);
}

#[tokio::test]
async fn a_process_of_this_host_needs_the_token_at_the_port_and_is_known_at_the_socket() {
    let fixture = Fixture::start().await;
    let order = Control::Hold { for_: Duration::from_secs(1) };
    let socket = fixture.dir.path().join("admin.sock");
    let refused = Remote::from(fixture.addr).order(&order).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("at unix:{} from root", socket.display())), "{refused}");
    let wrong = Remote { token: Some(Secret::new("another horse battery")), ..fixture.addr.into() };
    assert!(wrong.order(&order).await.unwrap_err().to_string().contains("is another one"), "the token is looked at");
    assert_eq!(fixture.commands(), []);
    for remote in [fixture.over_tcp(), fixture.at_the_socket()] {
        remote.order(&order).await.unwrap();
        assert_eq!(fixture.commands(), [order], "{remote:?}");
        assert_eq!(remote.look().await.unwrap().master_name, "mymaster");
    }
}

#[tokio::test]
async fn a_crowd_at_the_port_keeps_nobody_from_the_socket() {
    let patient = Duration::from_secs(60);
    let options = Options { header_timeout: patient, connection_limit: patient, ..Options::default() };
    let fixture = Fixture::with(options, "127.0.0.1:1".parse().unwrap(), None).await;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(fixture.addr).await.unwrap();
        stream.write_all(b"POST /control/hold?for=9s HTTP/1.1\r\nX-Sl").await.unwrap();
        crowd.push(stream);
    }
    let crowded = fixture.over_tcp().order(&Control::Release).await.unwrap_err().to_string();
    assert!(crowded.contains("too many connections"), "{crowded}");
    let order = Control::Failover { force: false };
    fixture.at_the_socket().order(&order).await.unwrap();
    assert_eq!(fixture.commands(), [order]);
}
