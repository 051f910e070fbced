//! `on_lost_reply`: what becomes of writes whose reply was lost, as the user chose.

use super::client::Told;
use super::row;
use super::stage::{CLOSE, Deed, RETRY_ALL, RETRY_IDEMPOTENT, Seat, cases};

const UNKNOWN: &str = "-UNKNOWNRESULT…";
/// There what was outstanding has run: running twice shows.
const CRASH: &[Deed] = &[Deed::Crash];

cases! {
    row::WRITE, CRASH, close_ends_the_connection;
    row::WRITE, CRASH, close_spares_reads;
    row::WRITE, CRASH, retry_idempotent_repeats_what_may_be_repeated;
    row::WRITE, CRASH, retry_all_repeats_writes;
    row::EXEC, CRASH, retry_all_repeats_no_exec;
}

async fn close_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open_at(CLOSE).await?;
    seat.failover(&mut client, &["ECHO before", "SET @ v", "ECHO behind"]).await?;
    client.hear("$6 before").await?;
    client.end().await
}

async fn close_spares_reads(seat: Seat) -> Told {
    let mut client = seat.open_at(CLOSE).await?;
    seat.failover(&mut client, &["GET @", "PING"]).await?;
    client.hear_all(&[client.nil(), "+PONG"]).await?;
    client.ask("SET @ v", "+OK").await
}

async fn retry_idempotent_repeats_what_may_be_repeated(seat: Seat) -> Told {
    let mut client = seat.open_at(RETRY_IDEMPOTENT).await?;
    let writes = ["SET @ v", "INCR @i", "HSET @h f v", "LPUSH @l a", "SADD @s m", "SET @n v NX", "DEL @none"];
    seat.failover(&mut client, &writes).await?;
    // Run twice, HSET and SADD find that it is there already.
    client.hear_all(&["+OK", UNKNOWN, ":0", UNKNOWN, ":0", UNKNOWN, ":0"]).await?;
    client.ask("GET @i", "$1 1").await?;
    client.ask("LLEN @l", ":1").await
}

async fn retry_all_repeats_writes(seat: Seat) -> Told {
    let mut client = seat.open_at(RETRY_ALL).await?;
    seat.failover(&mut client, &["SET @ v", "INCR @i", "LPUSH @l a", "SPOP @none 2", "GET @i"]).await?;
    client.hear_all(&["+OK", ":2", ":2", if seat.resp == 3 { "~0" } else { "*0" }, "$1 2"]).await
}

async fn retry_all_repeats_no_exec(seat: Seat) -> Told {
    let mut client = seat.open_at(RETRY_ALL).await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &["EXEC"]).await?;
    client.end().await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$1 1").await
}
