//! Connections on which the server speaks unasked: subscriptions, MONITOR, invalidations.

use std::time::{Duration, Instant};

use super::client::{Client, Told, ensure};
use super::stage::{Seat, cases};
use super::{ANY, row};

cases! {
    row::SUBSCRIBED, ANY, a_channel_goes_on;
    row::SUBSCRIBED, ANY, channels_patterns_and_shards_go_on;
    row::SUBSCRIBED, ANY, a_subscription_under_way_is_confirmed_once;
    row::SUBSCRIBED, ANY, an_unsubscribe_under_way_is_confirmed_once;
    row::SUBSCRIBED, ANY, ping_in_pubsub;
    row::SUBSCRIBED, ANY, a_list_that_looks_like_a_message_is_a_reply;
    row::SUBSCRIBED, ANY, monitor_goes_on;
    row::SUBSCRIBED, ANY, a_tracking_cache_is_flushed_and_tracks_on;
    row::SUBSCRIBED, ANY, redirected_invalidations_end_the_connection;
}

async fn a_list_that_looks_like_a_message_is_a_reply(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("RPUSH @l message x", ":2").await?;
    client.ask("SUBSCRIBE @", &client.push(&["subscribe", "@"], ":1")).await?;
    client.ask("UNSUBSCRIBE @", &client.push(&["unsubscribe", "@"], ":0")).await?;
    client.ask("LRANGE @l 0 -1", "*2 $7 message $1 x").await?;
    seat.failover(&mut client, &[]).await?;
    seat.switched().await?;
    // Were the list still owed, the answers would be off by one.
    client.ask("ECHO one", "$3 one").await?;
    client.ask("ECHO two", "$3 two").await
}

/// Publishes until somebody listens, on every node that may be the next master. When that was.
async fn publish_until_heard(seat: &Seat, publish: &str) -> Told<Instant> {
    let started = Instant::now();
    let mut nodes: Vec<Option<Client>> = (1..seat.nodes()).map(|_| None).collect();
    while started.elapsed() < Duration::from_secs(20) {
        for (replica, slot) in nodes.iter_mut().enumerate() {
            // A promotion closes the connections of the node.
            let mut node = match slot.take() {
                Some(node) => node,
                None => seat.node(replica + 1).await?,
            };
            match node.get(publish).await {
                Ok(count) if count == ":0" => *slot = Some(node),
                Ok(_) => return Ok(Instant::now()),
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    Err("nobody listens on the new master".to_owned().into())
}

async fn a_channel_goes_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SUBSCRIBE @", &client.push(&["subscribe", "@"], ":1")).await?;
    seat.failover(&mut client, &[]).await?;
    let heard = publish_until_heard(&seat, "PUBLISH @ first").await?;
    client.hear(&client.push(&["message", "@", "first"], "")).await?;
    seat.switched().await?;
    if let Some(promoted) = seat.promoted_at() {
        let delay = heard.saturating_duration_since(promoted);
        seat.note(&format!("heard {} ms after the promotion (target: 200)", delay.as_millis()));
    }
    client.ask("UNSUBSCRIBE", &client.push(&["unsubscribe", "@"], ":0")).await?;
    client.ask("SET @ v", "+OK").await
}

async fn channels_patterns_and_shards_go_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.say("SUBSCRIBE @a @b @a").await?;
    for (channel, count) in [("@a", ":1"), ("@b", ":2"), ("@a", ":2")] {
        client.hear(&client.push(&["subscribe", channel], count)).await?;
    }
    client.ask("PSUBSCRIBE @p*", &client.push(&["psubscribe", "@p*"], ":3")).await?;
    client.ask("SSUBSCRIBE @s", &client.push(&["ssubscribe", "@s"], ":1")).await?;
    client.ask("UNSUBSCRIBE @b", &client.push(&["unsubscribe", "@b"], ":2")).await?;
    seat.failover(&mut client, &[]).await?;
    publish_until_heard(&seat, "PUBLISH @a x").await?;
    client.hear(&client.push(&["message", "@a", "x"], "")).await?;
    let mut direct = seat.switched().await?;
    direct.ask("PUBLISH @b x", ":0").await?;
    direct.ask("PUBLISH @p1 y", ":1").await?;
    client.hear(&client.push(&["pmessage", "@p*", "@p1", "y"], "")).await?;
    direct.ask("SPUBLISH @s z", ":1").await?;
    client.hear(&client.push(&["smessage", "@s", "z"], "")).await?;
    client.ask("UNSUBSCRIBE", &client.push(&["unsubscribe", "@a"], ":1")).await?;
    client
        .ask("UNSUBSCRIBE", &format!("{}3 $11 unsubscribe {} :1", if seat.resp == 3 { '>' } else { '*' }, client.nil()))
        .await?;
    client.ask("PUNSUBSCRIBE", &client.push(&["punsubscribe", "@p*"], ":0")).await?;
    client.ask("SUNSUBSCRIBE", &client.push(&["sunsubscribe", "@s"], ":0")).await?;
    client.ask("ECHO hello", "$5 hello").await
}

async fn a_subscription_under_way_is_confirmed_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SUBSCRIBE @a", &client.push(&["subscribe", "@a"], ":1")).await?;
    seat.failover(&mut client, &["SUBSCRIBE @b @c"]).await?;
    client.hear(&client.push(&["subscribe", "@b"], ":2")).await?;
    client.hear(&client.push(&["subscribe", "@c"], ":3")).await?;
    seat.switched().await?;
    publish_until_heard(&seat, "PUBLISH @c x").await?;
    client.hear(&client.push(&["message", "@c", "x"], "")).await
}

async fn an_unsubscribe_under_way_is_confirmed_once(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("SUBSCRIBE @a", &client.push(&["subscribe", "@a"], ":1")).await?;
    client.ask("SUBSCRIBE @b", &client.push(&["subscribe", "@b"], ":2")).await?;
    seat.failover(&mut client, &["UNSUBSCRIBE"]).await?;
    let both = [client.frame().await?, client.frame().await?];
    for channel in ["@a", "@b"] {
        let name = client.bulk(channel);
        ensure(both.iter().any(|frame| frame.contains(&name)), format!("{both:?}"))?;
    }
    ensure(both[1].ends_with(":0"), format!("{both:?}"))?;
    seat.switched().await?;
    client.ask("SET @ v", "+OK").await
}

async fn ping_in_pubsub(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    let [pong, pong_x] = if seat.resp == 3 { ["+PONG", "$1 x"] } else { ["*2 $4 pong $0 ", "*2 $4 pong $1 x"] };
    client.ask("SUBSCRIBE @", &client.push(&["subscribe", "@"], ":1")).await?;
    client.ask("PING", pong.trim_end()).await?;
    seat.failover(&mut client, &["PING x"]).await?;
    client.hear(pong_x).await?;
    seat.switched().await?;
    client.ask("PING", pong.trim_end()).await?;
    client.ask("GET @", if seat.resp == 3 { "_" } else { "-ERR Can't execute 'get'…" }).await
}

async fn monitor_goes_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    client.ask("MONITOR", "+OK").await?;
    let mut direct = seat.old().await?;
    direct.get("ECHO @before").await?;
    client.hear_of("\"ECHO\" \"@before\"").await?;
    seat.armed().await?;
    seat.done().await?;
    let mut direct = seat.switched().await?;
    let talk = tokio::task::spawn_local(async move {
        while direct.get("ECHO @after").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    client.hear_of("\"ECHO\" \"@after\"").await?;
    talk.abort();
    client.say("RESET").await?;
    client.hear_of("+RESET").await?;
    client.ask("ECHO done", "$4 done").await
}

async fn a_tracking_cache_is_flushed_and_tracks_on(seat: Seat) -> Told {
    let mut client = seat.open().await?;
    if seat.resp == 2 {
        return Ok(()); // Invalidations need RESP3, or another connection.
    }
    client.ask("SET @ v", "+OK").await?;
    seat.replicated("$1 v", "GET @").await?;
    client.ask("CLIENT TRACKING ON", "+OK").await?;
    client.ask("GET @", "$1 v").await?;
    seat.failover(&mut client, &[]).await?;
    client.hear(">2 $10 invalidate _").await?;
    let mut direct = seat.switched().await?;
    client.ask("GET @", "$1 v").await?;
    direct.ask("SET @ w", "+OK").await?;
    client.hear(&format!(">2 $10 invalidate *1 {}", client.bulk("@"))).await?;
    client.ask("GET @", "$1 w").await?;
    client.ask("CLIENT TRACKING OFF", "+OK").await
}

async fn redirected_invalidations_end_the_connection(seat: Seat) -> Told {
    let mut receiver = seat.open().await?;
    let mut client = seat.open().await?;
    let id = receiver.get("CLIENT ID").await?;
    client.ask(&format!("CLIENT TRACKING ON REDIRECT {}", &id[1..]), "+OK").await?;
    seat.failover(&mut client, &[]).await?;
    client.end().await
}
