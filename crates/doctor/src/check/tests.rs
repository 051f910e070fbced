//! Every check finds its fault in facts that are sound but for that, and nothing in sound ones.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::address::HostPort;
use crate::facts::{Application, AskedServer, Fields, NodeFacts, SentinelFacts};
use crate::secret::Secret;

fn fields(text: &str) -> Fields {
    let pair = |part: &str| part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    text.split(';').filter_map(pair).collect()
}

fn asked<T>(host: u8, port: u16, answer: T) -> AskedServer<T> {
    let ip = IpAddr::from([10, 0, 0, host]);
    AskedServer { at: HostPort { host: ip.to_string(), port }, ip: Some(ip), answer: Ok(answer) }
}

fn entry(host: u8, port: u16, kind: &str) -> Fields {
    fields(&format!("ip=10.0.0.{host};port={port};flags={kind};runid=r{host}{port}"))
}

/// Three hosts, each with a node and a Sentinel.
fn sound() -> SetUp {
    let sentinel = |host: u8| {
        let mut master = entry(1, 6379, "master");
        let set = "config-epoch=3;quorum=2;down-after-milliseconds=2000;failover-timeout=10000;parallel-syncs=1";
        master.extend(fields(set));
        let said = SentinelFacts {
            master,
            replicas: vec![entry(2, 6379, "slave"), entry(3, 6379, "slave")],
            peers: (1..=3).filter(|other| *other != host).map(|other| entry(other, 26379, "sentinel")).collect(),
            myid: Some(format!("r{host}26379")),
            info: "redis_version:7.0.15\r\nsentinel_tilt:0\r\n".into(),
            skew: Some(1),
            ..SentinelFacts::default()
        };
        asked(host, 26379, said)
    };
    let node = |host: u8| {
        let role = if host == 1 {
            "role:master\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r\n"
        } else {
            "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\nslave_priority:100\r\n"
        };
        let settings = "min-replicas-to-write=1;maxmemory=1000;maxmemory-policy=noeviction;appendonly=yes;save=;timeout=0;\
                        repl-backlog-size=67108864;repl-diskless-sync=yes;protected-mode=yes;bind=10.0.0.1 127.0.0.1;\
                        client-output-buffer-limit=normal 0 0 0 slave 536870912 268435456 60;replica-read-only=yes";
        let said = NodeFacts {
            info: format!("redis_version:7.0.15\r\nconfig_file:/etc/redis.conf\r\nrdb_last_bgsave_status:ok\r\n{role}"),
            settings: fields(settings),
            requirepass: Some(Secret::new("one")),
            masterauth: Some(Secret::new("one")),
            users: Some(vec![Secret::new("user app on #aa ~* +@all"), Secret::new("user default on #bb ~* +@all")]),
            file: Some(fields("timeout=0")),
            ..NodeFacts::default()
        };
        asked(host, 6379, said)
    };
    SetUp {
        name: "mymaster".into(),
        sentinels: (1..=3).map(sentinel).collect(),
        nodes: (1..=3).map(node).collect(),
        ..SetUp::default()
    }
}

fn node(facts: &mut SetUp, index: usize) -> &mut NodeFacts {
    facts.nodes[index].answer.as_mut().unwrap()
}

fn sentinel(facts: &mut SetUp, index: usize) -> &mut SentinelFacts {
    facts.sentinels[index].answer.as_mut().unwrap()
}

fn set(facts: &mut SetUp, name: &str, value: &str) {
    (0..3).for_each(|index| _ = node(facts, index).settings.insert(name.into(), value.into()));
}

fn of_sentinels(facts: &mut SetUp, name: &str, value: &str) {
    (0..3).for_each(|index| _ = sentinel(facts, index).master.insert(name.into(), value.into()));
}

fn application(facts: &mut SetUp) -> &mut Application {
    facts.application.get_or_insert_with(|| Application {
        path: "/app".into(),
        target: "127.0.0.1:6379".into(),
        is_ours: true,
        ..Application::default()
    })
}

fn number(facts: &mut SetUp, name: &'static str, value: f64) {
    application(facts).numbers.push((name, value, "/app/config".into()));
}

type Fault = (&'static str, fn(&mut SetUp));

const FAULTS: &[Fault] = &[
    ("sentinel-unreachable", |f| f.sentinels[2].answer = Err("refused".into())),
    ("sentinels-few", |f| (0..3).for_each(|i| _ = sentinel(f, i).peers.pop())),
    ("no-quorum", |f| sentinel(f, 0).no_quorum = Some("NOQUORUM 1 usable Sentinels".into())),
    ("quorum-too-high", |f| of_sentinels(f, "quorum", "4")),
    ("quorum-low", |f| of_sentinels(f, "quorum", "1")),
    ("sentinels-even", |f| (0..3).for_each(|i| sentinel(f, i).peers.push(entry(4, 26379, "sentinel")))),
    ("sentinel-stale", |f| sentinel(f, 0).peers.push(entry(9, 26379, "s_down,sentinel"))),
    ("myid-twice", |f| sentinel(f, 1).myid = Some("r126379".into())),
    ("tilt", |f| sentinel(f, 1).info = "redis_version:7.0.15\r\nsentinel_tilt:1\r\n".into()),
    ("sentinel-cannot-log-in", |f| {
        sentinel(f, 1).master.insert("flags".into(), "s_down,master".into()).map_or((), drop)
    }),
    ("down-after-long", |f| of_sentinels(f, "down-after-milliseconds", "30000")),
    ("down-after-slow", |f| of_sentinels(f, "down-after-milliseconds", "5000")),
    ("down-after-short", |f| of_sentinels(f, "down-after-milliseconds", "100")),
    ("failover-timeout-long", |f| of_sentinels(f, "failover-timeout", "60000")),
    ("parallel-syncs-low", |f| (4..6).for_each(|host| sentinel(f, 0).replicas.push(entry(host, 6379, "slave")))),
    ("sentinel-scripts", |f| of_sentinels(f, "notification-script", "/bin/true")),
    ("hostnames-mixed", |f| sentinel(f, 0).replicas.push(fields("ip=redis-2;port=6379;flags=slave;runid=x"))),
    ("sentinel-open", |f| sentinel(f, 0).open = true),
    ("sentinels-disagree", |f| _ = sentinel(f, 0).master.insert("ip".into(), "10.0.0.2".into())),
    ("sentinel-settings-differ", |f| _ = sentinel(f, 0).master.insert("failover-timeout".into(), "9000".into())),
    ("master-down", |f| f.nodes[0].answer = Err("refused".into())),
    ("second-master", |f| node(f, 1).info = "redis_version:7.0.15\r\nrole:master\r\n".into()),
    ("host-loss", |f| f.sentinels[1].ip = f.sentinels[0].ip),
    ("sentinels-same-host", |f| f.sentinels[1].ip = f.sentinels[0].ip),
    ("loopback", |f| sentinel(f, 0).replicas.push(fields("ip=127.0.0.1;port=6380;flags=slave;runid=x"))),
    ("versions-mixed", |f| node(f, 1).info = node(f, 1).info.replace("7.0.15", "7.2.0")),
    ("version-old", |f| node(f, 1).info = node(f, 1).info.replace("7.0.15", "6.0.16")),
    ("clock-skew", |f| node(f, 1).skew = Some(-9000)),
    ("node-unreachable", |f| f.nodes[1].answer = Err("refused".into())),
    ("stale-replica", |f| sentinel(f, 0).replicas.push(fields("ip=127.0.0.1;port=0;flags=s_down,slave"))),
    ("requirepass-missing", |f| node(f, 1).open = true),
    ("masterauth-missing", |f| node(f, 0).masterauth = None),
    ("masterauth-differs", |f| node(f, 0).masterauth = Some(Secret::new("hunter2"))),
    ("credentials-refused", |f| node(f, 1).login = Some("WRONGPASS".into())),
    ("users-differ", |f| _ = node(f, 1).users.as_mut().unwrap().remove(0)),
    ("open-to-all", |f| (0..3).for_each(|i| node(f, i).open = true)),
    ("bind-loopback", |f| _ = node(f, 1).settings.insert("bind".into(), "127.0.0.1 -::1".into())),
    ("commands-renamed", |f| node(f, 1).renamed = vec!["CONFIG".into()]),
    ("not-readable", |f| node(f, 1).refused = vec!["CONFIG GET *: NOPERM no".into()]),
    ("no-replica", |f| node(f, 0).info = "redis_version:7.0.15\r\nrole:master\r\n".into()),
    ("replica-link-down", |f| node(f, 1).info = node(f, 1).info.replace("status:up", "status:down")),
    ("replica-lags", |f| node(f, 0).info = node(f, 0).info.replace("lag=0", "lag=60")),
    ("priority-zero", |f| (1..3).for_each(|i| node(f, i).info = node(f, i).info.replace("priority:100", "priority:0"))),
    ("min-replicas-unset", |f| set(f, "min-replicas-to-write", "0")),
    ("min-replicas-too-high", |f| set(f, "min-replicas-to-write", "2")),
    ("replica-writable", |f| set(f, "replica-read-only", "no")),
    ("backlog-small", |f| set(f, "repl-backlog-size", "1048576")),
    ("replica-buffer-small", |f| set(f, "client-output-buffer-limit", "normal 0 0 0 slave 1000 100 60")),
    ("diskless-sync-off", |f| set(f, "repl-diskless-sync", "no")),
    ("persistence-off", |f| set(f, "appendonly", "no")),
    ("bgsave-failed", |f| node(f, 0).info = node(f, 0).info.replace("status:ok", "status:err")),
    ("evicts", |f| set(f, "maxmemory-policy", "allkeys-lru")),
    ("maxmemory-unset", |f| set(f, "maxmemory", "0")),
    ("settings-differ", |f| _ = node(f, 1).settings.insert("maxmemory".into(), "2000".into())),
    ("not-written", |f| _ = node(f, 1).file.as_mut().unwrap().insert("timeout".into(), "30".into())),
    ("no-config-file", |f| node(f, 1).info = node(f, 1).info.replace("/etc/redis.conf", "")),
    ("idle-timeout", |f| set(f, "timeout", "300")),
    ("queue-hold", |f| f.hold = Some(Duration::from_secs(45))),
    ("laravel-not-here", |f| application(f).is_ours = false),
    ("laravel-refused", |f| application(f).refused = Some("refused".into())),
    ("laravel-sentinel-package", |f| application(f).packages.push("monospice/laravel-redis-sentinel-drivers".into())),
    ("laravel-retry-after", |f| number(f, "retry_after", 65.0)),
    ("laravel-read-timeout", |f| number(f, "read_timeout", 5.0)),
    ("laravel-command-retries", |f| number(f, "command_retries", 3.0)),
    ("laravel-web-timeout", |f| number(f, "fastcgi_read_timeout", 5.0)),
    ("laravel-reverb-socket", |f| {
        application(f).has_reverb = true;
        application(f).target = "/run/switchmaster.sock".into();
    }),
];

#[test]
fn nothing_is_found_in_what_is_sound() {
    assert_eq!(run(&sound()), []);
    let mut laravel = sound();
    number(&mut laravel, "read_timeout", 0.0);
    assert_eq!(run(&laravel), []);
}

#[test]
fn every_check_finds_its_fault() {
    for (id, fault) in FAULTS {
        let mut facts = sound();
        fault(&mut facts);
        let found = run(&facts);
        let its: Vec<&Finding> = found.iter().filter(|finding| finding.id == *id).collect();
        assert!(!its.is_empty(), "{id} is not among {found:#?}");
        assert!(its.iter().all(|finding| !finding.mend.is_empty() && !finding.place.is_empty()), "{its:?}");
        let shown = crate::report::text(&facts, &found, &[]);
        assert!(shown.contains(id) && !shown.contains("hunter2"), "{shown}");
    }
    let tested: BTreeSet<&str> = FAULTS.iter().map(|(id, _)| *id).collect();
    assert_eq!(tested, all().map(|check| check.id).collect(), "a check has no fault here");
}

#[test]
fn a_single_replica_is_not_asked_to_be_waited_for() {
    let mut facts = sound();
    facts.nodes.pop();
    set_two(&mut facts, "0");
    assert!(run(&facts).iter().all(|finding| finding.id != "min-replicas-unset"));
    set_two(&mut facts, "1");
    assert!(run(&facts).iter().any(|finding| finding.id == "min-replicas-too-high"));
}

fn set_two(facts: &mut SetUp, value: &str) {
    (0..2).for_each(|index| _ = node(facts, index).settings.insert("min-replicas-to-write".into(), value.into()));
}
