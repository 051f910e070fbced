//! What a connection has become by the commands before: reply modes, users, protocols, scripts, WAIT, RESET, QUIT.

use std::time::{Duration, Instant};

use switchmaster::resp::request::encode;

use super::client::{Client, Told, ensure};
use super::requests::UNKNOWN;
use super::stage::{Deed, Seat, cases};
use super::{ANY, DEATH, row};

const LIMIT: Duration = Duration::from_secs(20);

cases! {
    row::IDLE, ANY, reply_off_stays_off;
    row::IDLE, ANY, reply_skip_skips_one;
    row::IDLE, ANY, courtesies_are_restored;
    row::IDLE, ANY, what_several_commands_make_is_restored;
    row::IDLE, ANY, bytes_are_restored_as_they_were;
    row::IDLE, ANY, reset_forgets;
    row::IDLE, ANY, quit_answers_and_ends;
    row::IDLE, ANY, hello_in_the_middle;
    row::IDLE, ANY, auth_is_a_barrier_and_may_fail;
    row::IDLE, ANY, a_failing_auth_changes_nothing;
    row::IDLE, ANY, loaded_scripts_are_known;
    row::IDLE, ANY, wait_answers_for_the_new_master;
    row::READ, &[Deed::Crash, Deed::Hang], a_lost_wait_answers_zero;
    row::READ, ANY, auth_under_way_goes_on;
    row::IDLE, ANY, half_closed_clients_get_their_replies;
    row::WRITE, ANY, a_half_closed_client_is_told_what_became_of_its_requests;
    row::WRITE, &[Deed::Planned], clients_that_ask_once_and_say_no_more_are_answered;
    row::LARGE, DEATH, a_large_request_without_a_reply_changes_nothing;
}

async fn reply_off_stays_off(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say_all(&["CLIENT REPLY OFF", "SET @a 1", "SELECT 4"]).await?;
    client.quiet(Duration::from_millis(50)).await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["SET @b 1", "GET @b", "CLIENT REPLY ON", "GET @b"]).await?;
    client.hear_all(&["+OK", "$1 1"]).await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" db=4 "), info)
}

async fn reply_skip_skips_one(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say_all(&["CLIENT REPLY SKIP", "SET @a 1", "ECHO a"]).await?;
    client.hear("$1 a").await?;
    client.say("CLIENT REPLY SKIP").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.say_all(&["SET @b 2", "GET @b"]).await?;
    client.hear("$1 2").await
}

async fn courtesies_are_restored(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("CLIENT NO-EVICT ON", "+OK").await?;
    let no_touch = client.get("CLIENT NO-TOUCH ON").await? == "+OK";
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let info = client.get("CLIENT INFO").await?;
    let flags = info.split(" flags=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned();
    ensure(flags.contains('e') && (!no_touch || flags.contains('T')), info)
}

/// What CLIENT builds up, each on a connection of its own; `MULTI` last asks inside it.
const BUILT_UP: [&[&str]; 9] = [
    &["CLIENT TRACKING ON BCAST PREFIX @a", "CLIENT TRACKING ON BCAST PREFIX @b NOLOOP", "CLIENT SETNAME @"],
    &["CLIENT TRACKING ON BCAST PREFIX redirect NOLOOP", "CLIENT TRACKING ON BCAST"],
    &["CLIENT TRACKING ON OPTIN NOLOOP", "CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "CLIENT SETNAME @"],
    &["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "ECHO a"],
    &["CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "MULTI"],
    &["CLIENT TRACKING ON BCAST PREFIX @", "CLIENT TRACKING OFF", "CLIENT TRACKING ON OPTOUT", "CLIENT CACHING NO"],
    &["CLIENT TRACKING ON OPTOUT", "CLIENT TRACKING OFF", "CLIENT NO-EVICT ON", "CLIENT NO-EVICT OFF"],
    &["CLIENT SETINFO LIB-NAME a", "CLIENT SETINFO LIB-VER 1", "CLIENT SETINFO LIB-NAME b", "SELECT 2"],
    &["CLIENT SETNAME a", "AUTH app app-secret", "HELLO 3 SETNAME b", "CLIENT NO-TOUCH ON"],
];

async fn what_several_commands_make_is_restored(seat: Seat) -> Told {
    let mut clients = Vec::new();
    for requests in BUILT_UP {
        let mut client = seat.open().await?;
        for request in requests {
            client.get(request).await?;
        }
        clients.push(client);
    }
    seat.armed().await?;
    seat.done().await?;
    seat.switched().await?;
    for (mut client, requests) in clients.into_iter().zip(BUILT_UP) {
        let mut direct = seat.switched().await?;
        if seat.resp == 3 {
            direct.ask("HELLO 3", "%…").await?;
        }
        for request in requests {
            direct.get(request).await?;
        }
        let (restored, made) = (what_it_is(&mut client).await?, what_it_is(&mut direct).await?);
        ensure(restored == made, format!("{requests:?}: {restored:?} is not {made:?}"))?;
    }
    Ok(())
}

/// What the server says of a connection, without what differs between any two.
async fn what_it_is(client: &mut Client) -> Told<Vec<String>> {
    let mut said = Vec::new();
    for request in ["CLIENT TRACKINGINFO", "CLIENT INFO", "EXEC"] {
        client.say(request).await?;
        let mut reply = client.frame().await?;
        while reply.starts_with(">2 $10 invalidate") {
            reply = client.frame().await?;
        }
        const SAME: [&str; 9] = ["flags", "name", "db", "multi", "user", "redir", "resp", "lib-name", "lib-ver"];
        let is_same = |word: &&str| word.split_once('=').is_none_or(|(key, _)| SAME.contains(&key));
        // Its length differs as the rest does.
        said.push(reply.split(' ').filter(is_same).filter(|word| !word.starts_with('$')).collect::<Vec<_>>().join(" "));
    }
    Ok(said)
}

async fn bytes_are_restored_as_they_were(seat: Seat) -> Told {
    let user = [seat.tag().as_bytes(), b"-\xff\xfe"].concat();
    let (password, channel) = (b"\xc3(\x80\xff".as_slice(), [b"\xe2\x28\xa1", seat.tag().as_bytes()].concat());
    for node in 0..seat.nodes() {
        let mut node = seat.node(node).await?;
        let password = [b">", password].concat();
        node.send(&encode(&[b"ACL", b"SETUSER", &user, b"on", &password, b"~*", b"&*", b"+@all"])).await?;
        node.hear("+OK").await?;
    }
    let mut client = seat.open().await?;
    client.send(&encode(&[b"AUTH", &user, password])).await?;
    client.hear("+OK").await?;
    let mut greeter = seat.open().await?;
    let resp = seat.resp.to_string();
    greeter.send(&encode(&[b"HELLO", resp.as_bytes(), b"AUTH", &user, password])).await?;
    greeter.frame().await?;
    let mut listener = seat.open().await?;
    listener.send(&encode(&[b"SUBSCRIBE", &channel])).await?;
    listener.frame().await?;
    listener.send(&encode(&[b"PSUBSCRIBE", &[&channel[..], b"*"].concat()])).await?;
    listener.frame().await?;
    let mut queue = seat.open().await?;
    queue.ask("MULTI", "+OK").await?;
    queue.send(&encode(&[b"SET", &channel, password])).await?;
    queue.hear("+QUEUED").await?;
    seat.armed().await?;
    seat.done().await?;
    let mut direct = seat.switched().await?;
    queue.ask("EXEC", "*1 +OK").await?;
    for client in [&mut client, &mut greeter] {
        client.ask("ACL WHOAMI", &format!("${} {}", user.len(), String::from_utf8_lossy(&user))).await?;
    }
    direct.send(&encode(&[b"GET", &channel])).await?;
    direct.hear(&format!("${} {}", password.len(), String::from_utf8_lossy(password))).await?;
    let started = Instant::now();
    loop {
        direct.send(&encode(&[b"PUBLISH", &channel, b"m"])).await?;
        match direct.frame().await?.as_str() {
            ":2" => break,
            _ if started.elapsed() < LIMIT => tokio::time::sleep(Duration::from_millis(10)).await,
            heard => return Err(format!("heard by {heard}").into()),
        }
    }
    listener.hear_of("pmessage").await.map(drop)
}

async fn reset_forgets(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("AUTH app app-secret", "+OK").await?;
    client.say_all(&["SELECT 3", "CLIENT SETNAME @", "MULTI", "INCR @"]).await?;
    client.hear_all(&["+OK", "+OK", "+OK", "+QUEUED"]).await?;
    client.ask("RESET", "+RESET").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let info = client.get("CLIENT INFO").await?;
    for part in [" db=0 ", " user=default ", " name= ", " multi=-1 "] {
        ensure(info.contains(part), format!("{part} is not in {info}"))?;
    }
    client.ask("GET @", "$-1").await
}

async fn quit_answers_and_ends(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("PING", "+PONG").await?;
    seat.failover(&mut client, &[]).await?;
    client.ask("QUIT", "+OK").await?;
    client.end().await
}

async fn hello_in_the_middle(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    let other = 5 - seat.resp;
    let nothing = |resp: u8| if resp == 3 { "_" } else { "$-1" };
    client.ask("GET @", nothing(seat.resp)).await?;
    let map = if other == 3 { "%…" } else { "*…" };
    client.ask(&format!("HELLO {other} AUTH app app-secret SETNAME @"), map).await?;
    seat.failover(&mut client, &[]).await?;
    client.ask("GET @", nothing(other)).await?;
    seat.switched().await?;
    client.ask("CLIENT GETNAME", &client.bulk("@")).await?;
    client.ask("ACL WHOAMI", "$3 app").await?;
    client.say(&format!("HELLO {}", seat.resp)).await?;
    client.frame().await?;
    client.ask("GET @", nothing(seat.resp)).await
}

async fn auth_is_a_barrier_and_may_fail(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("AUTH app app-secret", "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    client.say_all(&["INCR @", "AUTH app wrong", "INCR @", "AUTH app app-secret", "ACL WHOAMI"]).await?;
    client.hear_all(&[":1", "-WRONGPASS…", ":2", "+OK", "$3 app"]).await
}

async fn a_failing_auth_changes_nothing(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("AUTH app app-secret", "+OK").await?;
    client.ask("AUTH app wrong", "-WRONGPASS…").await?;
    client.ask("HELLO 3 AUTH app wrong", "-WRONGPASS…").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("ACL WHOAMI", "$3 app").await?;
    client.ask("GET @", client.nil()).await
}

async fn loaded_scripts_are_known(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    let sha = client.get("SCRIPT LOAD return(redis.call('incr',KEYS[1]))").await?.split_off(4);
    client.ask(&format!("EVALSHA {sha} 1 @"), ":1").await?;
    // So large that the proxy passes it on in parts.
    let long = client.get(&format!("SCRIPT LOAD return(7)--{}", "x".repeat(48 << 10))).await?.split_off(4);
    client.ask("EVAL return(ARGV[1]..'evaluated') 0 x", "$10 xevaluated").await?;
    seat.replicated("$1 1", "GET @").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    let mut other = seat.open().await?;
    other.ask(&format!("EVALSHA {sha} 1 @"), ":2").await?;
    client.ask(&format!("EVALSHA {sha} 1 @"), ":3").await?;
    client.ask(&format!("EVALSHA {long} 0"), ":7").await?;
    client.ask("EVALSHA ffffffffffffffffffffffffffffffffffffffff 0", "-NOSCRIPT…").await
}

async fn wait_answers_for_the_new_master(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SET @ v", "+OK").await?;
    client.ask("WAIT 1 5000", ":…").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    // Longer than a reply is waited for here.
    client.ask("WAIT 1 600000", ":0").await?;
    client.say_all(&["SET @ w", "WAIT 1 10000"]).await?;
    client.hear("+OK").await?;
    let replicas = client.frame().await?;
    ensure(replicas == ":1" || replicas == ":2", replicas)
}

async fn a_lost_wait_answers_zero(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SET @ v", "+OK").await?;
    seat.failover(&mut client, &["WAIT 3 0", "ECHO behind"]).await?;
    client.hear_all(&[":0", "$6 behind"]).await
}

async fn auth_under_way_goes_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &["AUTH app app-secret", "SELECT 2"]).await?;
    client.hear_all(&["+OK", "+OK"]).await?;
    seat.switched().await?;
    let info = client.get("CLIENT INFO").await?;
    ensure(info.contains(" user=app ") && info.contains(" db=2 "), info)
}

async fn half_closed_clients_get_their_replies(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SET @ v", "+OK").await?;
    seat.replicated("$1 v", "GET @").await?;
    seat.failover(&mut client, &["GET @"]).await?;
    client.hear("$1 v").await?;
    seat.switched().await?;
    client.say_all(&["GET @", "ECHO last"]).await?;
    client.close_sending().await?;
    client.hear_all(&["$1 v", "$4 last"]).await?;
    client.end().await
}

async fn a_half_closed_client_is_told_what_became_of_its_requests(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SET @ v", "+OK").await?;
    seat.replicated("$1 v", "GET @").await?;
    seat.armed().await?;
    client.say_all(&["GET @", "INCR @i"]).await?;
    client.close_sending().await?;
    seat.done().await?;
    client.hear("$1 v").await?;
    client.hear(if seat.loses_replies() { UNKNOWN } else { ":1" }).await?;
    client.end().await
}

async fn clients_that_ask_once_and_say_no_more_are_answered(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    seat.failover(&mut client, &[]).await?;
    for count in 1..=100 {
        let mut client = seat.open().await?;
        client.say("INCR @").await?;
        client.close_sending().await?;
        client.hear(&format!(":{count}")).await?;
        client.end().await?;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let mut direct = seat.switched().await?;
    direct.ask("GET @", "$3 100").await
}

async fn a_large_request_without_a_reply_changes_nothing(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    // More than is read at once.
    let large = format!("SET @ {}", "x".repeat(256 << 10));
    client.say_all(&["CLIENT REPLY SKIP", &large, "SET @b 1"]).await?;
    client.hear("+OK").await?;
    client.say_all(&["CLIENT REPLY OFF", &large, "CLIENT REPLY ON"]).await?;
    client.hear("+OK").await?;
    client.ask("STRLEN @", ":262144").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    client.ask("ECHO still", "$5 still").await
}
