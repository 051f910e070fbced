//! `backup create` on real clusters: what arrives, and what is left behind when something goes wrong on the way.
//!
//! A slow stream is a real one: the source is told to linger at each key (`rdb-key-save-delay`). `BACKUP_FAILOVERS` says
//! through how many failovers one cluster is taken.

mod faults;
pub mod site;

use std::fs;
use std::time::Duration;

use switchmaster::backup::args::CreateArgs;
use switchmaster::backup::pack::{Identities, Unpacker};
use switchmaster::backup::{Error, catalog, report};
use switchmaster::demo::cluster::ClusterSpec;
use switchmaster::wire::{Reply, Wire};
use tokio::time::timeout;

use crate::it::proxy;
use crate::lone::Lone;
use crate::support::sentinels::known_replicas;
use crate::zoo;
use site::{Site, created};

/// The disaster recovery guide's own set-up: its master has a password, its replicas want none.
fn guide() -> ClusterSpec {
    ClusterSpec { replicas_require_password: false, ..ClusterSpec::with_password("S3cret") }
}

#[tokio::test]
async fn every_type_arrives_as_it_is_and_no_sentinel_learns_of_it() {
    let site = Site::start(guide()).await;
    let addr = site.cluster.node_addr(0);
    let zoo = zoo::fill(addr, site.cluster.auth().as_ref()).await.unwrap();
    site.wait_for_replicas().await;
    let before = known_replicas(&site.cluster).await;

    let manifest = created(site.create().await).manifest;
    assert_eq!(manifest.source.role, "replica");
    assert_eq!(manifest.counts.functions, zoo.functions);
    for db in zoo::DATABASES {
        let size = Wire::open(addr, site.cluster.auth().as_ref(), db).await.unwrap().ask(&["DBSIZE"]).await.unwrap();
        assert_eq!(size, Reply::Integer(manifest.counts.databases[&db].keys as i64), "database {db}");
    }
    assert_eq!(known_replicas(&site.cluster).await, before);
    assert_eq!(fs::read_dir(site.spool()).unwrap().count(), 0);

    // By hand: nothing of ours but the unpacking, and a server that loads the file.
    let target = Lone::start(&[]).await;
    let path = target.save().await;
    let stored = fs::File::open(site.stored(&manifest)).unwrap();
    let mut unpacker = Unpacker::new(stored, &manifest, &Identities::default()).unwrap();
    std::io::copy(&mut unpacker, &mut fs::File::create(path).unwrap()).unwrap();
    unpacker.finish().unwrap();
    let loaded = target.open(0).await.ask(&["DEBUG", "RELOAD", "NOSAVE"]).await.unwrap();
    assert_eq!(loaded, Reply::Simple("OK".into()));
    // What the source has: when a consumer was last seen is each node's own.
    let source = manifest.source.addr.parse().unwrap();
    let expected = zoo::contents(source, None).await.unwrap();
    let found = zoo::contents(target.addr, None).await.unwrap();
    let differing: Vec<_> = expected.iter().filter(|(key, value)| found.get(key) != Some(value)).collect();
    assert!(differing.is_empty(), "{:?}", differing.iter().map(|(key, _)| key).collect::<Vec<_>>());
    assert_eq!((found.len(), expected.len() > 100), (expected.len(), true));
}

#[tokio::test]
async fn an_acl_user_needs_three_commands_and_is_told_which() {
    let rules = "-@all +psync +replconf +info";
    let spec = ClusterSpec { acl_user: Some(("backup".into(), "pw".into(), rules.into())), ..ClusterSpec::default() };
    let mut site = Site::start(spec).await;
    site.authenticate("backup", "pw");
    created(site.create().await);

    for node in 0..site.cluster.nodes().len() {
        let reply = site.cluster.ask_node(node, &["ACL", "SETUSER", "backup", "-psync"]).await.unwrap();
        assert_eq!(reply, Reply::Simple("OK".into()));
    }
    let error = site.create().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    for part in ["NOPERM", "+psync +replconf +info"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // Nobody waits for a password to become right.
    site.authenticate("backup", "wrong");
    let error = timeout(Duration::from_secs(45), site.create()).await.expect("it ends at once").unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error}");
    for part in ["WRONGPASS", "redis_password"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(site.objects().await, 2, "the one that was made");
}

#[tokio::test]
async fn the_master_is_taken_only_when_told() {
    let site = Site::start(ClusterSpec { replicas: 0, ..ClusterSpec::default() }).await;
    site.fill(0, 100).await;
    let error = site.create().await.unwrap_err();
    assert_eq!(error.exit_code(), 80);
    assert!(error.to_string().contains("is the master (--allow-master"), "{error}");
    let args = CreateArgs { allow_master: true, ..CreateArgs::default() };
    let made = created(site.create_with(&args).await);
    assert_eq!((made.manifest.source.role.as_str(), made.keys), ("master", 100));
}

#[tokio::test]
async fn one_of_several_hosts_makes_it_and_a_young_one_will_do() {
    let site = Site::start(ClusterSpec::default()).await;
    site.fill(0, 1000).await;
    site.linger(Duration::from_micros(500)).await;
    let (one, two) = tokio::join!(site.create(), site.create());
    let refused = match (one, two) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.exit_code(), 75, "{refused}");
    assert_eq!(site.objects().await, 2);

    let args = CreateArgs { if_older_than: Some(Duration::from_secs(3600)), ..CreateArgs::default() };
    let text = site.create_with(&args).await.unwrap().to_string();
    assert!(text.contains("young enough"), "{text}");
    let args = CreateArgs { if_older_than: Some(Duration::from_nanos(1)), ..CreateArgs::default() };
    site.fill(0, 1001).await;
    created(site.create_with(&args).await);
    assert_eq!(site.objects().await, 4);
}

#[tokio::test]
async fn a_young_one_that_is_gone_or_damaged_will_not_do() {
    let site = Site::start(ClusterSpec { replicas: 1, ..ClusterSpec::default() }).await;
    let args = CreateArgs { if_older_than: Some(Duration::from_secs(3600)), ..CreateArgs::default() };
    site.fill(0, 100).await;
    let first = created(site.create_with(&args).await).manifest;
    let whole = fs::read(site.stored(&first)).unwrap();

    fs::write(site.stored(&first), &whole[..whole.len() / 2]).unwrap();
    site.fill(0, 200).await;
    let second = created(site.create_with(&args).await).manifest;
    fs::remove_file(site.stored(&second)).unwrap();
    // The first is the newest that is sound.
    fs::write(site.stored(&first), &whole).unwrap();
    let text = site.create_with(&args).await.unwrap().to_string();
    assert!(text.contains(&first.id), "{text}");

    let mark = catalog::damaged_name(&first.master_name, &first.id);
    site.store.put_over(&mark, b"{}".to_vec()).await.unwrap();
    site.fill(0, 300).await;
    let third = created(site.create_with(&args).await);
    assert_eq!((third.keys, third.keys_before), (300, None), "nothing to compare with");
}

#[tokio::test]
async fn what_came_of_it_is_told_to_those_who_watch() {
    let mut site = Site::start(ClusterSpec::default()).await;
    let state = tempfile::tempdir().unwrap();
    let textfile = state.path().join("redis.prom");
    site.config.state_dir = Some(state.path().into());
    site.config.backup.textfile = Some(textfile.clone());
    site.fill(0, 500).await;
    let first = created(site.create().await);
    assert_eq!((first.keys, first.keys_before, first.key_drop), (500, None, false));

    site.cluster.ask_node(0, &["FLUSHALL"]).await.unwrap();
    site.fill(0, 7).await;
    let second = created(site.create().await);
    assert_eq!((second.keys, second.keys_before, second.key_drop), (7, Some(500), true));

    site.config.sentinel.addrs.clear();
    site.config.sentinel.master_name = None;
    let error = site.create().await.unwrap_err();
    let text = fs::read_to_string(textfile).unwrap();
    for line in [
        format!("switchmaster_backup_last_exit_code{{master=\"mymaster\"}} {}", error.exit_code()),
        "switchmaster_backup_keys{master=\"mymaster\"} 7".to_owned(),
        "switchmaster_backup_key_drop{master=\"mymaster\"} 1".to_owned(),
        format!("switchmaster_backup_stored_bytes{{master=\"mymaster\"}} {}", second.manifest.stored_bytes),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    let record = &report::read_state(state.path())["mymaster"];
    assert_eq!(record.last_success, second.manifest.created.as_second() as u64);
}

#[tokio::test]
async fn the_running_proxy_shows_it_too() {
    let site = Site::start(guide()).await;
    site.fill(0, 30).await;
    let proxy = proxy::start(&site.cluster).await;
    proxy::wait_stable(&proxy).await;
    let never = "switchmaster_backup_last_success_timestamp_seconds{master=\"mymaster\"} 0";
    let shown = proxy::get(&proxy, "/metrics").await;
    assert!(shown.contains(never), "{shown}");

    let mut environment = site.environment();
    environment.push(("STATE_DIRECTORY", proxy.state_dir().display().to_string()));
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let ended = proxy::run(&["backup", "create", "--json"], &environment).await;
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{told}");
    let made: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((&made["outcome"], &made["keys"]), (&"created".into(), &30.into()), "{made}");
    let shown = proxy::get(&proxy, "/metrics").await;
    assert!(shown.contains("switchmaster_backup_keys{master=\"mymaster\"} 30"), "{shown}");
    assert!(!shown.contains(never), "{shown}");
}

#[tokio::test]
async fn a_backup_for_a_recipient_is_read_by_nobody_else() {
    let site = Site::start(ClusterSpec::default()).await;
    site.fill(0, 10).await;
    let key = age::x25519::Identity::generate();
    let args = CreateArgs { recipient: vec![key.to_public().to_string()], ..CreateArgs::default() };
    let manifest = created(site.create_with(&args).await).manifest;
    assert!(manifest.object.ends_with(".rdb.zst.age"), "{}", manifest.object);
    assert_eq!(manifest.packing.recipients, args.recipient);
    let stored = fs::read(site.stored(&manifest)).unwrap();
    assert!(stored.starts_with(b"age-encryption.org/v1"));
    let backups = catalog::list(&site.store, None).await.unwrap();
    assert_eq!(backups[0].usable().unwrap(), &manifest);

    let args = CreateArgs { recipient: vec!["age1nonsense".into()], ..CreateArgs::default() };
    let error = site.create_with(&args).await.unwrap_err();
    assert_eq!(error.exit_code(), 64, "{error}");
}
