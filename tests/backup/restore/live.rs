//! Live restores that succeed: behind proxies under load, into a node that nobody monitors, with and without an AOF.

use std::time::Duration;

use switchmaster::backup::Config;
use switchmaster::backup::Error;
use switchmaster::backup::restore::live::{self, Content, Outcome};
use switchmaster::backup::restore::primary::{Primary, Stage};
use switchmaster::backup::restore::safety::Safety;
use switchmaster::backup::restore::survey::Survey;
use switchmaster::backup::store::Store;
use switchmaster::config::Location;
use switchmaster::demo::cluster::{ClusterSpec, until};
use switchmaster::demo::load::{Load, LoadSpec};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::wire::{Reply, Wire};
use tokio::sync::watch;

use super::data::{Saved, assert_same, no_sentinel};
use crate::it::proxy;
use crate::it::stage::{LIMIT, Stage as Cluster, ask, served, soon};
use crate::lone::Lone;
use crate::support::bucket::{Bucket, KEY_ID, SECRET};
use crate::zoo;

/// Restores `saved`, a whole backup, behind a safety backup of what is there.
pub async fn replace(survey: Survey, saved: &Saved, config: &Config) -> Result<Outcome, Error> {
    let content = Content { rdb: saved.rdb(), tail: async || Ok(None), counts: Some(saved.counts()) };
    let (stage, _) = watch::channel(Stage::default());
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config.backup, Some(&Location::Folder(folder.path().to_owned()))).unwrap();
    let safety = match survey.facts.keys() {
        0 => None,
        _ => Some(Safety::make(&survey, &saved.manifest, &store, config).await.unwrap()),
    };
    let primary = Primary::bind([127, 0, 0, 1].into()).await.unwrap();
    soon(live::replace(survey, content, primary, safety, config, &stage)).await
}

/// Writers only: what readers expect is what a restore takes away.
fn writers() -> LoadSpec {
    LoadSpec { writers: 6, rate: 200.0, ..LoadSpec::none() }
}

#[tokio::test]
async fn clients_of_two_proxies_see_a_pause_and_nothing_else() {
    let mut spec = ClusterSpec::with_password("secret");
    // A time after which Sentinel would act on a silence that a busy machine makes.
    spec.down_after = Duration::from_secs(5);
    let stage = Cluster::with(spec, &[]).await;
    let second = Proxy::start(&proxy::spec(&stage.cluster)).await.unwrap();
    proxy::wait_settled(&second, &stage.cluster).await;
    let (cluster, auth) = (&stage.cluster, stage.cluster.auth());
    let master = cluster.node(0);
    let zoo_functions = zoo::fill(master.addr(), auth.as_ref()).await.unwrap().functions;
    let mut direct = cluster.connect(0).await.unwrap();
    stage.caught_up().await;
    let bucket = Bucket::start().await;
    let sentinels: Vec<String> = cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
    let environment = [
        ("SWITCHMASTER_SENTINELS", sentinels.join(",")),
        ("SWITCHMASTER_REDIS_PASSWORD", "secret".into()),
        ("SWITCHMASTER_ADMIN_TOKEN", proxy::ADMIN_TOKEN.into()),
        ("SWITCHMASTER_BACKUP_STORE", bucket.config().store.unwrap().to_string()),
        ("AWS_ENDPOINT_URL", format!("http://{}", bucket.addr)),
        ("AWS_ACCESS_KEY_ID", KEY_ID.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
    ];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let backup = async |arguments: &[&str]| {
        let output = proxy::run(&[&["backup"], arguments, &["--json"]].concat(), &environment).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let created = backup(&["create"]).await;
    // A consumer of a stream was last seen a little later by a replica than by the master: what counts is the source.
    let source = created["source"]["addr"].as_str().unwrap().parse().unwrap();
    let expected = zoo::contents(source, auth.as_ref()).await.unwrap();
    assert_eq!(created["keys"].as_u64(), Some(expected.len() as u64));
    ask(&mut direct, &["FLUSHALL"]).await;
    ask(&mut direct, &["FUNCTION", "FLUSH"]).await;
    let epoch = cluster.epoch(LIMIT).await.unwrap();

    let loads: Vec<Load> = [stage.proxy.addr(), second.addr()]
        .into_iter()
        .map(|addr| Load::start(addr, LoadSpec { auth: auth.clone(), ..writers() }).unwrap())
        .collect();
    for load in &loads {
        load.wait_until_served(LIMIT).await.unwrap();
    }
    // Blocked, watching and subscribed while it happens.
    let mut blocked = Wire::open(second.addr(), auth.as_ref(), 0).await.unwrap();
    let mut watching = stage.open().await;
    ask(&mut watching, &["WATCH", "string:short"]).await;
    let mut subscribed = stage.open().await;
    ask(&mut subscribed, &["SUBSCRIBE", "news"]).await;
    let popped = async { blocked.ask(&["BLPOP", "a-queue", "0"]).await.unwrap() };

    let (first, other) = (stage.proxy.admin().to_string(), second.admin().to_string());
    let work = async {
        let told = backup(&["restore", "latest", "--proxy", &first, "--proxy", &other, "--yes"]).await;
        println!("{told}");
        assert_eq!((&told["id"], told["replicas"].as_u64()), (&created["id"], Some(2)));
        assert_eq!(told["warnings"], serde_json::json!([]));
        assert!(told["safety_backup"].as_str().unwrap().ends_with("-safety"));
        for load in &loads {
            served(load, std::time::Instant::now()).await;
        }
        ask(&mut direct, &["RPUSH", "a-queue", "a job"]).await;
    };
    let (popped, ()) = soon(async { tokio::join!(popped, work) }).await;
    assert_eq!(popped.items().last(), Some(&Reply::Bulk(b"a job".to_vec())), "it was blocked all the while: {popped}");
    assert_eq!(ask(&mut watching, &["MULTI"]).await.to_string(), "+OK");
    ask(&mut watching, &["SET", "string:short", "other"]).await;
    assert_eq!(ask(&mut watching, &["EXEC"]).await, Reply::Nil, "what it watched was replaced");
    ask(&mut direct, &["PUBLISH", "news", "extra"]).await;
    assert!(soon(subscribed.receive()).await.unwrap().to_string().contains("extra"));

    for load in &loads {
        let report = load.stop(LIMIT).await.unwrap();
        println!("{report}\nlongest pause {:?}", report.longest_pause());
        assert_eq!(report.errors, Default::default());
        let lost = (report.lost_requests, report.connections_lost, report.hung, report.crossed);
        assert_eq!(lost, (0, 0, 0, 0), "{report}");
    }
    assert_eq!(cluster.epoch(LIMIT).await.unwrap(), epoch, "no Sentinel failed over");
    assert_eq!(cluster.wait_replicating(LIMIT).await.unwrap(), 0);
    stage.caught_up().await;
    let own = [&format!("{:x}.", std::process::id()), "a-queue"].map(|prefix| prefix.to_owned());
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    for node in 0..3 {
        let found = zoo::contents(cluster.node(node).addr(), auth.as_ref()).await.unwrap();
        assert_same(&found, &expected, &own);
    }
    assert_eq!(ask(&mut direct, &["FUNCTION", "LIST"]).await.items().len() as u64, zoo_functions);
    // A failover afterwards is as early as any: the proxies know the new history.
    let (_, new) = stage.fail_over().await;
    assert_ne!(new, 0);
    proxy::wait_view(&second, "the next failover", |view| {
        view.phase == "stable" && view.counters.early_commits == 1 && view.counters.failovers_planned == 1
    })
    .await;
}

#[tokio::test]
async fn a_node_that_nobody_monitors_keeps_what_it_was_given_through_its_aof() {
    let from = Lone::start(&[]).await;
    let to = Lone::start(&["appendonly yes"]).await;
    zoo::fill(from.addr, None).await.unwrap();
    let saved = Saved::of(&from.save().await);
    let expected = zoo::contents(from.addr, None).await.unwrap();
    let mut wire = to.open(0).await;
    ask(&mut wire, &["SET", "old", "data"]).await;

    let config = no_sentinel();
    let survey = Survey::take(&config, Some(to.addr), &[], &saved.manifest, 1).await.unwrap();
    assert_eq!((survey.facts.keys(), survey.facts.watched, survey.facts.aof), (1, Some(false), true));
    let outcome = replace(survey, &saved, &config).await.unwrap();
    assert_eq!((outcome.keys, outcome.warnings), (expected.len() as u64, vec![]));
    ask(&mut wire, &["SET", "written-after", "it"]).await;
    to.restart().await;
    until("the AOF to be loaded", LIMIT, async || {
        let mut wire = Wire::open(to.addr, None, 0).await.map_err(|error| error.to_string())?;
        match wire.ask(&["GET", "written-after"]).await {
            Ok(Reply::Bulk(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_same(&zoo::contents(to.addr, None).await.unwrap(), &expected, &["written-after"]);
}
