//! How sessions end that cannot go on, and what an outage without an end looks like.

use std::time::Duration;

use super::client::{Told, ensure};
use super::stage::{Deed, Seat, cases};
use super::{ANY, DEATH, row};

const OUTAGE: &[Deed] = &[Deed::Outage];
const DOWN: &str = "-MASTERDOWN switchmaster: …";

cases! {
    row::HALF, &[Deed::Crash], half_a_reply_ends_the_connection;
    row::HALF, &[Deed::Planned], the_rest_of_a_reply_arrives_first;
    row::HALF, &[Deed::Planned], the_rest_arrives_also_at_a_client_that_reads_late;
    row::CONNECTING, ANY, a_new_connection_is_held;
    row::AUTH, ANY, a_user_unknown_to_the_new_master_is_cut;
    row::OPAQUE, ANY, what_is_not_resp_is_cut;
    row::OPAQUE, ANY, a_replication_stream_ends;
    row::LARGE, DEATH, a_request_too_large_to_keep_ends_the_connection;
    row::CUT, &[Deed::Planned], client_kill_is_passed_on;
    row::CUT, &[Deed::Planned], client_kill_of_a_blocked_pop_is_passed_on;
    row::DEADLINE, OUTAGE, held_requests_get_an_error;
    row::DEADLINE, OUTAGE, lost_writes_are_told_apart;
    row::DEADLINE, OUTAGE, a_held_aggregate_ends_the_connection;
    row::DEADLINE, OUTAGE, new_connections_are_told_at_once;
    row::DEADLINE, OUTAGE, a_blocked_pop_times_out;
    row::DEADLINE, OUTAGE, a_sent_exec_ends_the_connection;
    row::DEADLINE, OUTAGE, a_held_exec_ends_the_connection;
    row::DEADLINE, OUTAGE, reads_of_an_outage_get_an_error;
    row::DEADLINE, OUTAGE, a_subscriber_outlives_the_outage;
}

async fn half_a_reply_ends_the_connection(seat: Seat) -> Told {
    const SIZE: usize = 64 << 20;
    let mut client = seat.open().await?;
    let mut direct = seat.old().await?;
    direct.ask(&format!("SETRANGE @ {} x", SIZE - 1), &format!(":{SIZE}")).await?;
    // Nobody reads: the reply fills every buffer on its way.
    client.say("GET @").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    ensure(client.drain(1000).await? == (1000, false), "the reply did not begin")?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let (read, ended) = client.drain(2 * SIZE).await?;
    ensure(ended && read < SIZE, format!("{read} bytes, ended: {ended}"))
}

async fn the_rest_of_a_reply_arrives_first(seat: Seat) -> Told {
    const SIZE: usize = 1 << 20;
    let mut client = seat.open().await?;
    let mut direct = seat.old().await?;
    direct.ask(&format!("SETRANGE @ {} x", SIZE - 1), &format!(":{SIZE}")).await?;
    client.say("GET @").await?;
    ensure(client.drain(1000).await? == (1000, false), "the reply did not begin")?;
    seat.failover(&mut client, &[]).await?;
    let (read, ended) = client.drain(SIZE + "$1048576\r\n\r\n".len() - 1000).await?;
    ensure(!ended, format!("ended after {read} bytes"))?;
    seat.switched().await?;
    client.ask("ECHO next", "$4 next").await
}

async fn the_rest_arrives_also_at_a_client_that_reads_late(seat: Seat) -> Told {
    const SIZE: usize = 24 << 20;
    let mut client = seat.open().await?;
    client.ask(&format!("SETRANGE @ {} x", SIZE - 1), &format!(":{SIZE}")).await?;
    // It fills every buffer on its way. What is behind it never comes from there.
    client.say_all(&["GET @", "EXISTS @"]).await?;
    ensure(client.drain(1000).await? == (1000, false), "the reply did not begin")?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("DEL @", ":1").await?;
    let whole = format!("${SIZE}\r\n\r\n").len() + SIZE;
    let (read, ended) = client.drain(whole - 1000).await?;
    ensure(!ended, format!("ended after {read} bytes"))?;
    client.hear(":0").await?;
    client.ask("ECHO next", "$4 next").await
}

async fn a_new_connection_is_held(seat: Seat) -> Told {
    let mut other = seat.open().await?;
    seat.failover(&mut other, &[]).await?;
    let mut client = seat.open().await?;
    client.say_all(&["AUTH app app-secret", "SELECT 1", "INCR @"]).await?;
    client.hear_all(&["+OK", "+OK", ":1"]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("SELECT 1", "+OK").await?;
    direct.ask("GET @", "$1 1").await
}

/// Users are not replicated.
async fn a_user_unknown_to_the_new_master_is_cut(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.old().await?.ask("ACL SETUSER @ on >secret allkeys allchannels allcommands", "+OK").await?;
    client.ask("AUTH @ secret", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say("PING").await?;
    client.end().await
}

async fn what_is_not_resp_is_cut(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    seat.armed().await?;
    client.send(b"*1\r\nPING\r\n").await?;
    seat.done().await?;
    seat.switched().await?;
    let (_, ended) = client.drain(1000).await?;
    ensure(ended, "still open")
}

async fn a_replication_stream_ends(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("REPLCONF LISTENING-PORT 1", "+OK").await?;
    client.say("PSYNC ? -1").await?;
    client.hear("+FULLRESYNC…").await?;
    seat.failover(&mut client, &[]).await?;
    let (_, ended) = client.drain(1 << 30).await?;
    ensure(ended, "still open")
}

async fn a_request_too_large_to_keep_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    let request = client.encoded(&format!("SET @ {}", "x".repeat(1 << 20)));
    seat.armed().await?;
    client.send(&request[..512 * 1024]).await?;
    seat.done().await?;
    client.end().await
}

async fn client_kill_is_passed_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("CLIENT SETNAME @", "+OK").await?;
    let id = client.get("CLIENT ID").await?;
    let mut direct = seat.old().await?;
    direct.ask(&format!("CLIENT KILL ID {}", &id[1..]), ":1").await?;
    client.end().await
}

async fn client_kill_of_a_blocked_pop_is_passed_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("CLIENT SETNAME @", "+OK").await?;
    client.say("BLPOP @ 0").await?;
    let mut direct = seat.old().await?;
    let id = seat.blocked_on(&mut direct).await?;
    direct.ask(&format!("CLIENT KILL ID {id}"), ":1").await?;
    client.end().await
}

async fn held_requests_get_an_error(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SELECT 1", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    client.say_all(&["SET @ v", "GET @", "INCR @"]).await?;
    client.hear_all(&[DOWN, DOWN, DOWN]).await?;
    // From then on at once, until a master is back.
    client.ask("PING", DOWN).await?;
    seat.switched().await?;
    serves_again(&mut client).await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" db=1 "), info)
}

/// The master is back: its session says so soon.
async fn serves_again(client: &mut super::client::Client) -> Told {
    for _ in 0..500 {
        if client.get("SET @ v").await? == "+OK" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("not served again".to_owned().into())
}

async fn lost_writes_are_told_apart(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["INCR @"]).await?;
    client.say("INCR @").await?;
    client.hear("-UNKNOWNRESULT…").await?;
    client.hear(DOWN).await
}

async fn a_held_aggregate_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    seat.failover(&mut client, &[]).await?;
    client.ask("ECHO before", DOWN).await?;
    client.say("HGETALL @").await?;
    client.end().await
}

async fn new_connections_are_told_at_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &[]).await?;
    client.ask("PING", DOWN).await?;
    let mut fresh = seat.open_fresh().await?;
    // Were it held, the node would be back before the deadline, and answer.
    fresh.ask("GET @", DOWN).await?;
    seat.switched().await?;
    serves_again(&mut fresh).await
}

async fn a_blocked_pop_times_out(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say("BLPOP @ 0").await?;
    seat.failover(&mut client, &[]).await?;
    client.hear(client.nil_array()).await?;
    // One that comes only now would be asked again at once: it is refused, and an aggregate's refusal is a FIN.
    let mut late = seat.open_fresh().await?;
    late.say("BRPOP @ 1").await?;
    late.end().await
}

async fn a_sent_exec_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &["EXEC"]).await?;
    client.end().await
}

async fn a_held_exec_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    client.say("EXEC").await?;
    client.end().await
}

async fn reads_of_an_outage_get_an_error(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["GET @", "STRLEN @"]).await?;
    client.hear_all(&[DOWN, DOWN]).await
}

async fn a_subscriber_outlives_the_outage(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SUBSCRIBE @", &client.push(&["subscribe", "@"], ":1")).await?;
    seat.failover(&mut client, &[]).await?;
    let mut direct = seat.switched().await?;
    for _ in 0..500 {
        if direct.get("PUBLISH @ x").await? == ":1" {
            return client.hear(&client.push(&["message", "@", "x"], "")).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("not subscribed again".to_owned().into())
}
