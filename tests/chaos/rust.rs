//! A client of the redis crate: its multiplexed connection, as an async service would share one.

use std::time::{Duration, Instant};

use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind};
use switchmaster::net::ListenAddr;
use tokio::sync::watch;
use tokio::time::sleep;

use super::event::{Journal, Op, Outcome};
use super::raw::value;

const REPLY_LIMIT: Duration = Duration::from_secs(40);

/// One client to run.
#[derive(Clone, Debug)]
pub struct Rust {
    /// Its name, which begins all its keys.
    pub name: String,
    /// Where the proxy is.
    pub addr: ListenAddr,
    /// The cluster's password.
    pub password: String,
    /// Between two requests.
    pub pause: Duration,
    /// Where its events go.
    pub journal: Journal,
    /// True when it should end.
    pub stop: watch::Receiver<bool>,
}

impl Rust {
    /// Runs until told to stop.
    pub async fn run(self) {
        let url = match &self.addr {
            ListenAddr::Tcp(addr) => format!("redis://:{}@{addr}/", self.password),
            ListenAddr::Unix(path) => format!("redis+unix://{}?pass={}", path.display(), self.password),
        };
        let client = Client::open(url).expect("an address");
        let (mut number, mut acknowledged) = (0, None);
        while !*self.stop.borrow() {
            let began = Instant::now();
            let config = AsyncConnectionConfig::new()
                .set_response_timeout(Some(REPLY_LIMIT))
                .set_connection_timeout(Some(REPLY_LIMIT));
            let mut connection = match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.journal.note(Op::Connect, 0, began, failure(&error));
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            self.journal.note(Op::Connect, 0, began, Outcome::Ok);
            let title = format!("chaos-{}", self.name);
            let _: RedisResult<()> = redis::cmd("CLIENT").arg("SETNAME").arg(title).query_async(&mut connection).await;
            while !*self.stop.borrow() {
                number += 1;
                let (op, subject) = match number % 5 {
                    1 => acknowledged.map_or((Op::Echo, number), |set| (Op::Get, set)),
                    2 => (Op::Incr, number),
                    3 => (Op::Push, number),
                    4 => (Op::Exec, number),
                    _ => (Op::Set, number),
                };
                let began = Instant::now();
                let outcome = self.ask(&mut connection, op, subject).await.unwrap_or_else(|error| failure(&error));
                if op == Op::Set && outcome == Outcome::Ok {
                    acknowledged = Some(number);
                }
                let cut = matches!(outcome, Outcome::Cut(_) | Outcome::Hung);
                self.journal.note(op, subject, began, outcome);
                if cut {
                    break;
                }
                sleep(self.pause).await;
            }
        }
    }

    async fn ask(
        &self,
        connection: &mut redis::aio::MultiplexedConnection,
        op: Op,
        number: u64,
    ) -> RedisResult<Outcome> {
        let name = &self.name;
        Ok(match op {
            Op::Set => {
                let (key, value) = (format!("{name}:k:{number}"), value(name, "k", number, 0));
                expect(redis::cmd("SET").arg(key).arg(value).query_async(connection).await?, "OK")
            }
            Op::Get => {
                let found: Option<String> =
                    redis::cmd("GET").arg(format!("{name}:k:{number}")).query_async(connection).await?;
                found.map_or(Outcome::Nil, |found| expect(found, &value(name, "k", number, 0)))
            }
            Op::Incr => Outcome::Value(redis::cmd("INCR").arg(format!("{name}:i")).query_async(connection).await?),
            Op::Push => {
                let key = format!("{name}:l:{}", number / 64);
                let element = format!("{name}:{number}");
                let _: i64 = redis::cmd("RPUSH").arg(key).arg(element).query_async(connection).await?;
                Outcome::Ok
            }
            Op::Exec => {
                let mut pipe = redis::pipe();
                pipe.atomic();
                pipe.cmd("SET").arg(format!("{name}:x:{number}")).arg(value(name, "x", number, 0)).ignore();
                pipe.cmd("INCR").arg(format!("{name}:xc"));
                let (counter,): (i64,) = pipe.query_async(connection).await?;
                Outcome::Value(counter)
            }
            _ => {
                let text = format!("{name}:{number}");
                expect(redis::cmd("ECHO").arg(&text).query_async(connection).await?, &text)
            }
        })
    }
}

fn expect(found: String, expected: &str) -> Outcome {
    if found == expected { Outcome::Ok } else { Outcome::Wrong(found) }
}

fn failure(error: &RedisError) -> Outcome {
    let text = error.code().map_or_else(|| error.to_string(), |code| format!("{code} {error}"));
    if error.is_timeout() {
        Outcome::Hung
    } else if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
        Outcome::Cut(text)
    } else if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ResponseError)) || error.code().is_some() {
        Outcome::Error(text)
    } else {
        Outcome::Wrong(text)
    }
}
