//! MULTI, its queue, WATCH and EXEC.

use super::client::{Told, ensure};
use super::stage::{Deed, Seat, cases};
use super::{ANY, DEATH, row};

cases! {
    row::MULTI, ANY, an_open_queue_is_replayed;
    row::MULTI, ANY, queueing_under_way_goes_on;
    row::MULTI, ANY, multi_without_a_queue_goes_on;
    row::MULTI, ANY, a_discarded_queue_did_nothing;
    row::MULTI, ANY, a_nested_multi_is_refused_as_ever;
    row::MULTI, ANY, a_refused_command_still_aborts_exec;
    row::MULTI, ANY, an_error_while_running_stays_in_its_place;
    row::MULTI, ANY, a_select_inside_counts;
    row::LARGE, &[Deed::Planned], a_queue_too_large_to_keep_goes_through;
    row::MULTI, ANY, a_whole_transaction_of_the_hold_runs_once;
    row::WATCH, ANY, a_lost_watch_makes_exec_nil;
    row::WATCH, ANY, a_watch_before_multi_makes_exec_nil;
    row::WATCH, ANY, unwatch_ends_it;
    row::WATCH, ANY, a_discard_ends_it;
    row::WATCH, ANY, it_is_one_exec_that_is_nil;
    row::EXEC, DEATH, a_lost_exec_ends_the_connection;
    row::EXEC, DEATH, a_lost_pipelined_transaction_ends_the_connection;
    row::REFUSED, &[Deed::Demotion], a_refused_exec_is_replayed;
    row::REFUSED, &[Deed::Demotion], a_refused_pipelined_transaction_is_replayed;
}

async fn an_open_queue_is_replayed(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SELECT 1", "+OK").await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("SET @ v", "+QUEUED").await?;
    client.ask("INCR @i", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("GET @", "+QUEUED").await?;
    client.ask("EXEC", "*3 +OK :1 $1 v").await?;
    client.ask("GET @i", "$1 1").await
}

async fn queueing_under_way_goes_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &["INCR @", "HGETALL @h"]).await?;
    client.hear_all(&["+QUEUED", "+QUEUED"]).await?;
    seat.switched().await?;
    client.ask("EXEC", if seat.resp == 3 { "*3 :1 :2 %0" } else { "*3 :1 :2 *0" }).await?;
    client.ask("GET @", "$1 2").await
}

async fn a_queue_too_large_to_keep_goes_through(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask(&format!("SET @ {}", "x".repeat(256 << 10)), "+QUEUED").await?;
    seat.armed().await?;
    client.say("INCR @i").await?;
    seat.done().await?;
    client.hear("+QUEUED").await?;
    client.say("EXEC").await?;
    seat.runs_before_the_promotion("STRLEN @", ":262144").await?;
    client.hear("*2 +OK :1").await?;
    let mut direct = seat.switched().await?;
    direct.ask("STRLEN @", ":262144").await?;
    client.ask("INCR @i", ":2").await
}

async fn multi_without_a_queue_goes_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["MULTI"]).await?;
    client.hear("+OK").await?;
    seat.switched().await?;
    client.ask("INCR @", "+QUEUED").await?;
    client.ask("EXEC", "*1 :1").await
}

async fn a_discarded_queue_did_nothing(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    client.ask("DISCARD", "+OK").await?;
    client.ask("GET @", client.nil()).await?;
    client.ask("DISCARD", "-ERR DISCARD without MULTI").await?;
    seat.switched().await?;
    client.ask("EXEC", "-ERR EXEC without MULTI").await
}

async fn a_nested_multi_is_refused_as_ever(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    // Each server in words of its own.
    let refusal = client.get("MULTI").await?;
    ensure(refusal.starts_with("-ERR "), refusal.as_str())?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("MULTI", &refusal).await?;
    client.ask("WATCH @", "-ERR …").await?;
    let reply = client.get("EXEC").await?;
    // Servers differ in whether a nested MULTI aborts the transaction.
    ensure(reply == "*1 :1" || reply.starts_with("-EXECABORT"), reply)
}

async fn a_refused_command_still_aborts_exec(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    client.ask("GET", "-ERR wrong number of arguments…").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("INCR @", "+QUEUED").await?;
    client.ask("EXEC", "-EXECABORT Transaction discarded because of previous errors.").await?;
    client.ask("GET @", client.nil()).await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("NOSUCHCOMMAND", "-ERR unknown command…").await?;
    client.ask("DISCARD", "+OK").await
}

async fn an_error_while_running_stays_in_its_place(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("RPUSH @l x", ":1").await?;
    seat.replicated(":1", "LLEN @l").await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @l", "+QUEUED").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let wrong = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    client.ask("EXEC", &format!("*2 {wrong} :1")).await
}

async fn a_select_inside_counts(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("SELECT 5", "+QUEUED").await?;
    client.ask("EXEC", "*1 +OK").await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("SELECT 6", "+QUEUED").await?;
    client.ask("DISCARD", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" db=5 "), info)
}

async fn a_whole_transaction_of_the_hold_runs_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    seat.failover(&mut client, &[]).await?;
    if seat.deed() == Deed::Planned {
        tokio::time::sleep(std::time::Duration::from_millis(110)).await;
    }
    client.say_all(&["MULTI", "INCR @", "RPUSH @l a b", "EXEC", "GET @"]).await?;
    client.hear_all(&["+OK", "+QUEUED", "+QUEUED", "*2 :1 :2", "$1 1"]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$1 1").await
}

async fn a_lost_watch_makes_exec_nil(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("WATCH @", "+OK").await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("INCR @", "+QUEUED").await?;
    client.ask("EXEC", client.nil_array()).await?;
    client.ask("GET @", client.nil()).await?;
    // The client tries again, as WATCH means.
    client.ask("WATCH @", "+OK").await?;
    client.say_all(&["MULTI", "INCR @", "EXEC"]).await?;
    client.hear_all(&["+OK", "+QUEUED", "*1 :1"]).await
}

async fn a_watch_before_multi_makes_exec_nil(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("WATCH @", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["GET @", "MULTI", "INCR @", "EXEC", "GET @"]).await?;
    client.hear_all(&[client.nil(), "+OK", "+QUEUED", client.nil_array(), client.nil()]).await?;
    client.say_all(&["MULTI", "INCR @", "EXEC"]).await?;
    client.hear_all(&["+OK", "+QUEUED", "*1 :1"]).await
}

async fn unwatch_ends_it(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("WATCH @", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["UNWATCH", "MULTI", "INCR @", "EXEC"]).await?;
    client.hear_all(&["+OK", "+OK", "+QUEUED", "*1 :1"]).await
}

async fn a_discard_ends_it(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("WATCH @", "+OK").await?;
    client.ask("MULTI", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["DISCARD", "MULTI", "INCR @", "EXEC"]).await?;
    client.hear_all(&["+OK", "+OK", "+QUEUED", "*1 :1"]).await
}

async fn it_is_one_exec_that_is_nil(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("WATCH @", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["MULTI", "INCR @", "EXEC", "MULTI", "INCR @", "EXEC"]).await?;
    client.hear_all(&["+OK", "+QUEUED", client.nil_array(), "+OK", "+QUEUED", "*1 :1"]).await
}

async fn a_lost_exec_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &["EXEC"]).await?;
    client.end().await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", if seat.deed() == Deed::Crash { "$1 1" } else { "$-1" }).await
}

async fn a_lost_pipelined_transaction_ends_the_connection(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["ECHO before", "MULTI", "INCR @", "EXEC", "ECHO behind"]).await?;
    client.hear("$6 before").await?;
    client.end_after(&["+OK", "+QUEUED"]).await?;
    let mut direct = seat.switched().await?;
    direct.ask("GET @", if seat.deed() == Deed::Crash { "$1 1" } else { "$-1" }).await
}

async fn a_refused_exec_is_replayed(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MULTI", "+OK").await?;
    client.ask("INCR @", "+QUEUED").await?;
    seat.failover(&mut client, &["EXEC"]).await?;
    client.hear("*1 :1").await?;
    client.ask("GET @", "$1 1").await
}

async fn a_refused_pipelined_transaction_is_replayed(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["MULTI", "INCR @", "GET @", "EXEC", "INCR @"]).await?;
    client.hear_all(&["+OK", "+QUEUED", "+QUEUED", "*2 :1 $1 1", ":2"]).await
}
