//! The verbs for scripts: `wait`, the exit code of `status`, `direct`, and the way around the proxy that the documents
//! describe, run as it is written there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::demo::server::free_port;
use switchmaster::demo::wire::Wire;

use crate::support::proxy::{LIMIT, run, spec, start, start_as, verb, wait_settled, wait_stable};

/// The exit code, and what was printed on standard output and on standard error.
fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn small() -> Cluster {
    Cluster::start(ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() }).await.unwrap()
}

#[tokio::test]
async fn wait_returns_once_it_is_ready_and_status_ends_as_what_it_shows() {
    let cluster = small().await;
    let admin = format!("127.0.0.1:{}", free_port().unwrap());
    let wait = async |timeout: &str| ended(&run(&["wait", "--timeout", timeout, "--admin", &admin], &[]).await);
    let (code, out, why) = wait("0s").await;
    assert_eq!((code, out.as_str()), (Some(69), ""), "{why}");
    assert!(why.contains("not ready within 0 ms: nobody listens at"), "{why}");

    let mut spec = spec(&cluster);
    spec.admin = Some(admin.parse().unwrap());
    let (waited, proxy) = tokio::join!(wait("30s"), start_as(&spec));
    let (code, out, why) = waited;
    assert_eq!((code, why.as_str()), (Some(0), ""), "{out}");
    assert!(["ok: ", "failover: ", "degraded: "].iter().any(|word| out.starts_with(word)), "{out}");
    wait_stable(&proxy).await;
    let (code, out, why) = ended(&verb(&proxy, &["status"]).await);
    assert_eq!((code, why.as_str()), (Some(0), ""), "{out}");
    // Its ports are taken, and rightly so.
    let checked = run(&["config", "check", "--listen", &proxy.addr().to_string(), "--admin", &admin], &[]).await;
    assert_eq!(ended(&checked).2, "");

    cluster.sentinel(0).kill9();
    cluster.node(0).kill9();
    for arguments in [&["status"][..], &["status", "--json"]] {
        until("an exit code that says so", LIMIT, async || {
            let (code, out, why) = ended(&verb(&proxy, arguments).await);
            assert!(out.contains("127.0.0.1"), "it shows all the same: {out}{why}");
            if code == Some(69) && why.contains("not ready: ") { Ok(()) } else { Err(format!("{code:?} {out}{why}")) }
        })
        .await
        .unwrap();
    }
    let began = Instant::now();
    let (code, out, why) = wait("600ms").await;
    assert_eq!((code, out.as_str()), (Some(69), ""), "{why}");
    assert!(why.contains("not ready within 600 ms: down: "), "{why}");
    assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn direct_names_the_master_with_the_proxy_and_without() {
    let cluster = Cluster::start(ClusterSpec::with_password("of-direct")).await.unwrap();
    let mut proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let (admin, sentinels) = (proxy.admin().to_string(), cluster.sentinel_addr(0).to_string());
    let known = [
        ("SWITCHMASTER_ADMIN", admin.as_str()),
        ("SWITCHMASTER_SENTINELS", &sentinels),
        ("SWITCHMASTER_REDIS_PASSWORD", "of-direct"),
    ];
    let direct = async |arguments: &[&str]| ended(&run(&[&["direct"], arguments].concat(), &known).await);
    let old = cluster.node_addr(cluster.who_is_master().await.unwrap());
    for (arguments, expected) in [
        (&[][..], format!("{old}\n")),
        (&["--url"][..], format!("redis://{old}\n")),
        (&["--env"][..], format!("REDIS_HOST={}\nREDIS_PORT={}\n", old.ip(), old.port())),
        (&["--without-proxy"][..], format!("{old}\n")),
    ] {
        assert_eq!(direct(arguments).await, (Some(0), expected, String::new()), "{arguments:?}");
    }
    // A hold by command is no doubt of who is master.
    assert_eq!(verb(&proxy, &["hold"]).await.status.code(), Some(0));
    assert_eq!(direct(&[]).await, (Some(0), format!("{old}\n"), String::new()));
    assert_eq!(verb(&proxy, &["release"]).await.status.code(), Some(0));

    cluster.failover(LIMIT).await.unwrap();
    let now = until("the new master", LIMIT, async || match direct(&[]).await {
        (Some(0), out, _) if out != format!("{old}\n") => Ok(out),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    wait_stable(&proxy).await;
    proxy.signal(Signal::STOP);
    until("the Sentinels' word for it", LIMIT, async || match direct(&[]).await {
        (Some(0), out, why) if out == now && why.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    proxy.signal(Signal::KILL);
    proxy.wait(LIMIT).await.unwrap();
    assert_eq!(direct(&[]).await, (Some(0), now.clone(), String::new()));
    let without_password = ["SWITCHMASTER_ADMIN", "SWITCHMASTER_SENTINELS"].map(|name| {
        let value = known.iter().find(|(known, _)| *known == name).unwrap().1;
        (name, value)
    });
    let (code, out, why) = ended(&run(&["direct"], &without_password).await);
    assert_eq!((code, out), (Some(0), now.clone()));
    assert!(why.contains("warning: ") && why.contains("could not be asked for its role"), "{why}");

    // Two Sentinels of three are gone: the master is still the master, and somebody should know.
    cluster.sentinel(1).kill9();
    cluster.sentinel(2).kill9();
    let (code, out, why) = direct(&[]).await;
    assert_eq!((code, out), (Some(0), now.clone()), "{why}");
    assert!(why.contains("warning: ") && why.contains("only 1 of 3 Sentinels"), "{why}");
    cluster.node(cluster.node_at(now.trim().parse().unwrap()).unwrap()).kill9();
    let (code, out, why) = direct(&[]).await;
    assert_eq!((code, out.as_str()), (Some(69), ""), "{why}");
    assert!(why.contains("nobody listens at") && why.contains(now.trim()), "it says both: {why}");
    cluster.sentinel(0).kill9();
    let (code, _, why) = direct(&[]).await;
    assert!(code == Some(69) && why.contains("no Sentinel answers"), "{code:?} {why}");
}

/// The `sh` block below `<!-- name -->`, with the application's folder in place of the documents'.
fn documented(name: &str, folder: &Path) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, rest) = text.split_once(&format!("<!-- {name} -->\n```sh\n")).unwrap_or_else(|| panic!("no {name}"));
    let (block, _) = rest.split_once("```").unwrap();
    assert!(block.contains("/var/www/app"), "{block}");
    block.replace("/var/www/app", &folder.display().to_string())
}

/// A folder of programs: this switchmaster, and a `php` that notes what it was asked for.
fn programs(folder: &Path) {
    fs::create_dir(folder).unwrap();
    symlink(env!("CARGO_BIN_EXE_switchmaster"), folder.join("switchmaster")).unwrap();
    fs::write(folder.join("php"), "#!/bin/sh\necho \"$@\" >> asked\n").unwrap();
    fs::set_permissions(folder.join("php"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// Where an application with this `.env` connects, and what that node says it is.
async fn role(env: &str) -> String {
    let value = |name: &str| {
        let mut lines = env.lines().filter_map(|line| line.strip_prefix(name));
        let found = lines.next().unwrap_or_else(|| panic!("no {name} in {env}"));
        assert_eq!(lines.next(), None, "{name} is there twice");
        found.to_owned()
    };
    let addr = format!("{}:{}", value("REDIS_HOST="), value("REDIS_PORT="));
    let mut wire = Wire::connect(addr.parse().unwrap()).await.unwrap();
    wire.ask(&["INFO", "replication"]).await.unwrap().text().unwrap().to_owned()
}

#[tokio::test]
async fn the_way_around_the_proxy_is_as_documented() {
    let cluster = Cluster::start(ClusterSpec::default()).await.unwrap();
    let mut proxy = start(&cluster).await;
    wait_settled(&proxy, &cluster).await;
    let folder = tempfile::tempdir().unwrap();
    programs(&folder.path().join("bin"));
    let app = folder.path().join("app");
    fs::create_dir(&app).unwrap();
    let sentinels: Vec<String> = cluster.sentinel_addrs().iter().map(ToString::to_string).collect();
    let before = format!(
        "APP_NAME=shop\nREDIS_HOST={}\nREDIS_PORT={}\nREDIS_SENTINEL_HOSTS=\"{}\"\nREDIS_CLIENT=phpredis",
        proxy.addr().ip(),
        proxy.addr().port(),
        sentinels.join(",")
    );
    fs::write(app.join(".env"), &before).unwrap();
    fs::set_permissions(app.join(".env"), fs::Permissions::from_mode(0o640)).unwrap();
    let sh = async |script: &str, proxy: &Proxy| {
        let path = format!("{}:/usr/bin:/bin", folder.path().join("bin").display());
        let mut command = tokio::process::Command::new("sh");
        command.args(["-e", "-c", script]).env_clear().env("PATH", path);
        command.env("SWITCHMASTER_CONFIG", "/dev/null").env("SWITCHMASTER_ADMIN", proxy.admin().to_string());
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends").unwrap();
        let (code, out, why) = ended(&output);
        (code, out + &why)
    };
    let env = || fs::read_to_string(app.join(".env")).unwrap();
    let around = documented("bypass", &app);

    // The proxy hangs; nothing of it is needed.
    proxy.signal(Signal::STOP);
    let (code, said) = sh(&around, &proxy).await;
    assert_eq!(code, Some(0), "{said}");
    let direct = env();
    assert!(role(&direct).await.contains("role:master"), "{direct}");
    for line in before.lines().filter(|line| !line.starts_with("REDIS_HOST=") && !line.starts_with("REDIS_PORT=")) {
        assert!(direct.lines().any(|kept| kept == line), "{line} is gone from {direct}");
    }
    assert_eq!(fs::metadata(app.join(".env")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_to_string(app.join("asked")).unwrap(), "artisan config:clear\nartisan queue:restart\n");

    // Without the proxy a failover is not followed; the same again is enough.
    let old = cluster.who_is_master().await.unwrap();
    cluster.failover(LIMIT).await.unwrap();
    cluster.wait_for_master_change(old, LIMIT).await.unwrap();
    until("the new master", LIMIT, async || match sh(&around, &proxy).await {
        (Some(0), _) if env() != direct => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
    assert!(role(&env()).await.contains("role:master"));
    // Nobody knows a master: nothing is changed.
    let known = env();
    cluster.sentinels().iter().for_each(|sentinel| _ = sentinel.kill9());
    let (code, said) = sh(&around, &proxy).await;
    assert!(code != Some(0) && said.contains("no Sentinel answers"), "{code:?} {said}");
    assert_eq!(env(), known);
    for sentinel in cluster.sentinels() {
        sentinel.restart().await.unwrap();
    }

    proxy.signal(Signal::CONT);
    wait_stable(&proxy).await;
    let (code, said) = sh(&documented("back", &app), &proxy).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(env(), before);
    assert!(role(&before).await.contains("role:master"));
    let left: Vec<_> = fs::read_dir(&app).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "only .env, and what the test's php has noted: {left:?}");
}
