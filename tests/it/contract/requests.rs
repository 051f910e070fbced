//! Requests under way or about to be: idle sessions, held and half-sent requests, lost and refused replies.

use std::time::Duration;

use super::client::{Told, ensure};
use super::stage::{DEFAULT, Deed, RETRY_IDEMPOTENT, Seat, cases};
use super::{ANY, DEATH, row};

pub const UNKNOWN: &str =
    "-UNKNOWNRESULT the master failed over before it replied; the command may or may not have run";

cases! {
    row::IDLE, ANY, idle_session_is_restored;
    row::IDLE, ANY, idle_fresh_session_goes_on;
    row::IDLE, ANY, requests_of_the_hold_run_once_in_order;
    row::PART, ANY, half_a_request_is_completed_after_the_move;
    row::LARGE, &[Deed::Planned], a_large_request_under_way_goes_through;
    row::WRITE, &[Deed::Planned], a_stream_of_pipelines_keeps_its_order;
    row::WRITE, &[Deed::Planned], slow_scripts_under_way_are_answered;
    row::WRITE, &[Deed::Planned], large_replies_to_writes_arrive;
    row::WRITE, &[Deed::Planned, Deed::ShortOfReplicas], writes_before_and_after_run_once;
    row::READ, ANY, reads_are_sent_again;
    row::READ, ANY, connection_commands_are_sent_again;
    row::WRITE, DEATH, one_error_for_each_lost_write;
    row::WRITE, DEATH, order_among_lost_writes_and_reads;
    row::WRITE, DEATH, a_lost_aggregate_ends_the_connection;
    row::WRITE, DEATH, a_lost_multi_pop_ends_the_connection;
    row::WRITE, DEATH, large_writes_in_parts_run_once;
    row::REFUSED, &[Deed::Demotion], refused_writes_run_on_the_new_master;
    row::REFUSED, &[Deed::Demotion], refused_reads_run_on_the_new_master;
    row::REFUSED, ANY, a_scripts_own_readonly_is_passed_on;
}

async fn idle_session_is_restored(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("AUTH app app-secret", "+OK").await?;
    client.ask("SELECT 3", "+OK").await?;
    client.ask("CLIENT SETNAME @", "+OK").await?;
    let has_info = client.get("CLIENT SETINFO LIB-NAME tests").await? == "+OK";
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("CLIENT GETNAME", &client.bulk("@")).await?;
    client.ask("ACL WHOAMI", "$3 app").await?;
    let info = client.get("CLIENT INFO").await?;
    for part in [" db=3 ", " user=app "] {
        ensure(info.contains(part), format!("{part} is not in {info}"))?;
    }
    ensure(!has_info || info.contains("lib-name=tests"), info)?;
    client.ask("SET @ here", "+OK").await?;
    client.ask("SELECT 0", "+OK").await?;
    client.ask("GET @", client.nil()).await
}

async fn idle_fresh_session_goes_on(seat: Seat) -> Told {
    let mut client = seat.open_fresh().await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("PING", "+PONG").await
}

async fn requests_of_the_hold_run_once_in_order(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    seat.failover(&mut client, &[]).await?;
    if seat.deed() == Deed::Planned {
        tokio::time::sleep(Duration::from_millis(120)).await; // the hold begins about now
    }
    client.say_all(&["INCR @", "RPUSH @l a", "INCR @", "LRANGE @l 0 -1", "GET @", "ECHO end"]).await?;
    client.hear_all(&[":1", ":1", ":2", "*1 $1 a", "$1 2", "$3 end"]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$1 2").await
}

async fn half_a_request_is_completed_after_the_move(seat: Seat) -> Told {
    let mut small = seat.open().await?;
    let mut medium = seat.open().await?;
    let requests = [small.encoded("SET @ value"), medium.encoded(&format!("SET @m {}", "x".repeat(40_000)))];
    seat.armed().await?;
    small.send(&requests[0][..10]).await?;
    medium.send(&requests[1][..30_000]).await?;
    seat.done().await?;
    seat.switched().await?;
    small.send(&requests[0][10..]).await?;
    small.hear("+OK").await?;
    small.ask("GET @", "$5 value").await?;
    medium.send(&requests[1][30_000..]).await?;
    medium.hear("+OK").await?;
    medium.ask("STRLEN @m", ":40000").await
}

async fn a_large_request_under_way_goes_through(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    let request = client.encoded(&format!("SET @ {}", "x".repeat(256 << 10)));
    seat.armed().await?;
    client.send(&request[..128 * 1024]).await?;
    seat.done().await?;
    client.send(&request[128 * 1024..]).await?;
    seat.runs_before_the_promotion("STRLEN @", ":262144").await?;
    client.hear("+OK").await?;
    let mut direct = seat.switched().await?;
    direct.ask("STRLEN @", ":262144").await
}

async fn a_stream_of_pipelines_keeps_its_order(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &[]).await?;
    let mut expected = 0;
    for _ in 0..150 {
        client.say_all(&["INCR @"; 8]).await?;
        for _ in 0..8 {
            expected += 1;
            client.hear(&format!(":{expected}")).await?;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut direct = seat.switched().await?;
    direct.ask("GET @", &client.bulk(&expected.to_string())).await
}

async fn slow_scripts_under_way_are_answered(seat: Seat) -> Told {
    scripts_under_way(seat, "return redis.call('incr', KEYS[1])", |count| format!(":{count}")).await
}

/// More than is withheld of one session.
async fn large_replies_to_writes_arrive(seat: Seat) -> Told {
    let ends = "return string.rep('x', redis.call('incr', KEYS[1]) + 1310720)";
    scripts_under_way(seat, ends, |count| format!("${} x…", 1_310_720 + count)).await
}

/// Scripts, one after the other, of which one is under way when the hold begins. Each takes some 3 ms (by counting: time
/// stands still in a script since Redis 7.2).
async fn scripts_under_way(seat: Seat, ends: &str, reply: fn(usize) -> String) -> Told {
    let mut client = seat.open().await?;
    let script = format!("for i = 1, 4000 do redis.call('exists', KEYS[1]) end {ends}");
    let request = switchmaster::resp::request::encode(&["EVAL", &script, "1", client.key()].map(str::as_bytes));
    seat.failover(&mut client, &[]).await?;
    for count in 1..=30 {
        client.send(&request).await?;
        client.hear(&reply(count)).await?;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$2 30").await
}

async fn writes_before_and_after_run_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["INCR @", "LPUSH @l x"]).await?;
    client.hear_all(&[":1", ":1"]).await?;
    for count in 2..60 {
        client.ask("INCR @", &format!(":{count}")).await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$2 59").await
}

async fn reads_are_sent_again(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MSET @a 1 @b 2", "+OK").await?;
    client.ask("RPUSH @l x y", ":2").await?;
    client.ask("HSET @h f v", ":1").await?;
    seat.replicated(":2", "LLEN @l").await?;
    seat.replicated(":1", "HLEN @h").await?;
    let reads = [
        "GET @a",
        "MGET @a @b @c",
        "LRANGE @l 0 -1",
        "HGETALL @h",
        "EVAL_RO return(redis.call('get',KEYS[1])) 1 @b",
        "EXISTS @a",
    ];
    seat.failover(&mut client, &reads).await?;
    client.hear_all(&["$1 1", &format!("*3 $1 1 $1 2 {}", client.nil()), "*2 $1 x $1 y"]).await?;
    client.hear(if seat.resp == 3 { "%1 $1 f $1 v" } else { "*2 $1 f $1 v" }).await?;
    client.hear_all(&["$1 2", ":1"]).await
}

async fn connection_commands_are_sent_again(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["SELECT 5", "CLIENT SETNAME @", "PING", "ECHO hello", "SET @ v"]).await?;
    client.hear_all(&["+OK", "+OK", "+PONG", "$5 hello"]).await?;
    client.hear(if seat.loses_replies() { UNKNOWN } else { "+OK" }).await?;
    seat.switched().await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" db=5 ") && info.contains(&format!(" name={} ", client.key())), info)?;
    client.ask("SET @ w", "+OK").await?;
    client.ask("SELECT 0", "+OK").await?;
    client.ask("GET @", client.nil()).await
}

async fn one_error_for_each_lost_write(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SELECT 2", "+OK").await?;
    let writes = [
        "SET @s v",
        "INCR @",
        "LPUSH @l a",
        "SETNX @n v",
        "XADD @x * f v",
        "DEL @none",
        "PUBLISH @ x",
        "EVAL return(redis.call('incr',KEYS[1])) 1 @e",
        "EXPIRE @s 100",
        "GETDEL @none",
        "ZADD @z 1 m",
    ];
    seat.failover(&mut client, &writes).await?;
    for _ in writes {
        client.hear(UNKNOWN).await?;
    }
    let ran = if seat.deed() == Deed::Crash { "$1 1" } else { client.nil() };
    client.ask("GET @", ran).await?;
    client.ask("GET @e", ran).await?;
    client.ask("LLEN @l", if seat.deed() == Deed::Crash { ":1" } else { ":0" }).await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" db=2 "), info)
}

async fn order_among_lost_writes_and_reads(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["GET @none", "SET @ v", "GET @", "INCR @i", "ECHO last"]).await?;
    let ran = seat.deed() == Deed::Crash;
    client.hear_all(&[client.nil(), UNKNOWN, if ran { "$1 v" } else { client.nil() }, UNKNOWN, "$4 last"]).await?;
    client.ask("GET @i", if ran { "$1 1" } else { client.nil() }).await
}

async fn a_lost_aggregate_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SADD @ a b c", ":3").await?;
    seat.replicated(":3", "SCARD @").await?;
    seat.failover(&mut client, &["ECHO before", "SPOP @ 2", "ECHO behind"]).await?;
    client.hear("$6 before").await?;
    client.end().await?;
    let mut direct = seat.switched().await?;
    direct.ask("SCARD @", if seat.deed() == Deed::Crash { ":1" } else { ":3" }).await
}

async fn a_lost_multi_pop_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("RPUSH @ a b c", ":3").await?;
    seat.failover(&mut client, &["LMPOP 1 @ LEFT COUNT 2"]).await?;
    client.end().await
}

/// Their beginnings look like reads, or like what may run twice.
async fn large_writes_in_parts_run_once(seat: Seat) -> Told {
    const BEGINNING: usize = 20_000;
    let mut counter = seat.open().await?;
    let mut group = seat.open().await?;
    let mut lock = seat.open_at(if seat.deed() == Deed::Crash { RETRY_IDEMPOTENT } else { DEFAULT }).await?;
    group.ask("XGROUP CREATE @s g 0 MKSTREAM", "+OK").await?;
    group.say("XADD @s * f v").await?;
    group.frame().await?;
    seat.replicated(":1", "XLEN @s").await?;
    let requests = [
        counter.encoded(&format!("BITFIELD @ {}INCRBY u8 0 1", "GET u8 0 ".repeat(2000))),
        group.encoded(&format!("XREADGROUP GROUP g me STREAMS {}{}", "@s ".repeat(900), "> ".repeat(900))),
        lock.encoded(&format!("SET @n {} NX", "x".repeat(30_000))),
    ];
    seat.armed().await?;
    let mut clients = [&mut counter, &mut group, &mut lock];
    for (client, request) in clients.iter_mut().zip(&requests) {
        client.send(&request[..BEGINNING]).await?;
    }
    tokio::time::sleep(Duration::from_millis(50)).await; // the beginning goes alone
    for (client, request) in clients.iter_mut().zip(&requests) {
        client.send(&request[BEGINNING..]).await?;
    }
    seat.done().await?;
    counter.end().await?;
    group.end().await?;
    lock.hear(UNKNOWN).await?;
    let ran = i32::from(seat.deed() == Deed::Crash);
    let mut direct = seat.switched().await?;
    direct.ask("BITFIELD @ GET u8 0", &format!("*1 :{ran}")).await?;
    direct.ask("XPENDING @s g", &format!("*4 :{ran}…")).await?;
    direct.ask("EXISTS @n", &format!(":{ran}")).await
}

async fn refused_writes_run_on_the_new_master(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SELECT 4", "+OK").await?;
    seat.failover(&mut client, &["SET @s v", "INCR @", "INCR @", "LPUSH @l a", "SPOP @none 2", "GET @"]).await?;
    client.hear_all(&["+OK", ":1", ":2", ":1"]).await?;
    client.hear(if seat.resp == 3 { "~0" } else { "*0" }).await?;
    client.hear("$1 2").await?;
    let mut direct = seat.switched().await?;
    direct.ask("SELECT 4", "+OK").await?;
    direct.ask("GET @", "$1 2").await
}

async fn refused_reads_run_on_the_new_master(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SET @ v", "+OK").await?;
    seat.replicated("$1 v", "GET @").await?;
    seat.failover(&mut client, &["GET @", "STRLEN @"]).await?;
    client.hear_all(&["$1 v", ":1"]).await?;
    client.ask("SET @ w", "+OK").await
}

async fn a_scripts_own_readonly_is_passed_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    let mine = switchmaster::resp::request::encode(&[b"EVAL", b"return redis.error_reply('READONLY mine')", b"0"]);
    client.send(&mine).await?;
    client.hear("-READONLY mine").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.send(&mine).await?;
    client.hear("-READONLY mine").await?;
    client.ask("PING", "+PONG").await
}
