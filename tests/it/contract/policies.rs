//! `on_lost_reply` and `on_lost_pop`: what becomes of writes and pops whose reply was lost, as the user chose.

use super::client::Told;
use super::row;
use super::stage::{CLOSE, DEFAULT, Deed, RETRY_ALL, RETRY_IDEMPOTENT, Seat, cases};

const UNKNOWN: &str = "-UNKNOWNRESULT…";
/// There what was outstanding has run: running twice shows.
const CRASH: &[Deed] = &[Deed::Crash];

cases! {
    row::WRITE, CRASH, close_ends_the_connection;
    row::WRITE, CRASH, close_spares_reads;
    row::WRITE, CRASH, retry_idempotent_repeats_what_may_be_repeated;
    row::WRITE, CRASH, retry_all_repeats_writes;
    row::EXEC, CRASH, retry_all_repeats_no_exec;
    row::BLOCKED, CRASH, a_lost_pop_is_sent_again;
    row::BLOCKED, CRASH, a_lost_pop_ends_the_connection;
    row::BLOCKED, CRASH, a_lost_pop_is_an_error;
    row::BLOCKED, CRASH, a_lost_read_that_blocks_is_no_pop;
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

/// Two elements, of which the master pops the first in its last moment.
async fn with_two(seat: &Seat, proxy: usize) -> Told<super::client::Client> {
    let mut client = seat.open_at(proxy).await?;
    client.ask("RPUSH @ a b", ":2").await?;
    Ok(client)
}

async fn a_lost_pop_is_sent_again(seat: Seat) -> Told {
    let mut client = with_two(&seat, DEFAULT).await?;
    seat.failover(&mut client, &["BLPOP @ 0"]).await?;
    client.hear(&format!("*2 {} $1 b", client.bulk("@"))).await
}

async fn a_lost_pop_ends_the_connection(seat: Seat) -> Told {
    let mut client = with_two(&seat, CLOSE).await?;
    seat.failover(&mut client, &["BLPOP @ 0"]).await?;
    client.end().await?;
    seat.switched().await?.ask("LRANGE @ 0 -1", "*1 $1 b").await
}

async fn a_lost_pop_is_an_error(seat: Seat) -> Told {
    let mut client = with_two(&seat, RETRY_ALL).await?;
    let mut list = seat.open_at(RETRY_ALL).await?;
    list.ask("RPUSH @l a b", ":2").await?;
    seat.armed().await?;
    client.say("BLMOVE @ @to LEFT RIGHT 0").await?;
    list.say("BLPOP @l 0").await?;
    seat.done().await?;
    client.hear(UNKNOWN).await?;
    list.end().await?;
    seat.switched().await?.ask("LRANGE @to 0 -1", "*1 $1 a").await
}

async fn a_lost_read_that_blocks_is_no_pop(seat: Seat) -> Told {
    let mut client = seat.open_at(CLOSE).await?;
    client.say("XADD @ 1-1 f v").await?;
    client.frame().await?;
    seat.failover(&mut client, &["XREAD BLOCK 0 STREAMS @ 0"]).await?;
    let reply = client.frame().await?;
    super::client::ensure(reply.contains("1-1"), reply)
}
