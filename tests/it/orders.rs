//! Who of this host may give commands to a running proxy: asked as other users by the real binary.
//!
//! Only root can become somebody else: elsewhere it says that it does not test that.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Instant;

use switchmaster::control::Control;
use switchmaster::demo::cluster::{Cluster, ClusterSpec, until};
use switchmaster::demo::proxy::Proxy;
use switchmaster::net::own_uid;
use switchmaster::remote::{self, Remote};
use tempfile::TempDir;

use crate::support::proxy::{ADMIN_TOKEN, LIMIT, run, spec, start_as, verb, view, wait_log, wait_stable, wait_view};

/// A user and a group without a name, whoever lives on this host.
const STRANGER: u32 = 54_321;
const GROUP: u32 = 54_322;

/// The binary where every user can run it, and a folder that every user can look into.
struct Stage {
    binary: PathBuf,
    dir: TempDir,
    cluster: Cluster,
}

impl Stage {
    /// `None` where nobody else can be asked.
    async fn open() -> Option<Stage> {
        if own_uid() != 0 || std::process::Command::new("setpriv").arg("--version").output().is_err() {
            eprintln!("NOT TESTED: to ask as another user takes root and setpriv");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let open = Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), open.clone()).unwrap();
        let binary = dir.path().join("switchmaster");
        fs::copy(env!("CARGO_BIN_EXE_switchmaster"), &binary).unwrap();
        fs::set_permissions(&binary, open).unwrap();
        let spec = ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() };
        Some(Stage { binary, dir, cluster: Cluster::start(spec).await.unwrap() })
    }

    /// Its socket is `name` in the folder, with `options`.
    async fn proxy(&self, name: &str, options: &str) -> (Proxy, PathBuf) {
        let socket = self.dir.path().join(name);
        let mut spec = spec(&self.cluster);
        spec.set("SWITCHMASTER_ADMIN_SOCKET", format!("unix:{}{options}", socket.display()));
        let proxy = start_as(&spec).await;
        wait_stable(&proxy).await;
        (proxy, socket)
    }

    /// A verb for `proxy`, as the stranger, who is a member of `group` besides.
    async fn stranger(
        &self,
        proxy: &Proxy,
        socket: &Path,
        group: u32,
        arguments: &[&str],
        token: &str,
    ) -> (i32, String) {
        let child = tokio::process::Command::new("setpriv")
            .args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), format!("--groups={group}")])
            .arg(&self.binary)
            .args(arguments)
            .env_clear()
            .env("SWITCHMASTER_ADMIN", proxy.admin().to_string())
            .env("SWITCHMASTER_ADMIN_SOCKET", socket)
            .env("SWITCHMASTER_ADMIN_TOKEN", token)
            .current_dir("/")
            .kill_on_drop(true)
            .output();
        let Output { status, stdout, stderr } = tokio::time::timeout(LIMIT, child).await.expect("it ends").unwrap();
        (status.code().unwrap(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }
}

const COMMANDS: [&[&str]; 4] = [&["hold", "--for", "60s"], &["failover"], &["release"], &["reload"]];

#[tokio::test]
async fn another_user_gives_no_command_without_the_token() {
    let Some(stage) = Stage::open().await else { return };
    let (proxy, socket) = stage.proxy("admin.sock", "").await;
    let term = view(&proxy).await.term;
    for command in COMMANDS {
        let (code, said) = stage.stranger(&proxy, &socket, STRANGER, command, "").await;
        assert!(code == 69 && said.contains("commands are taken at unix:"), "{command:?}: {code} {said}");
        let (code, said) = stage.stranger(&proxy, &socket, STRANGER, command, "a-guess-of-the-token").await;
        assert!(code == 69 && said.contains("the admin_token is another one"), "{command:?}: {code} {said}");
    }
    // Whoever opens the file to all has not made all of them trusted.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    for command in COMMANDS {
        let (code, said) = stage.stranger(&proxy, &socket, STRANGER, command, "").await;
        assert!(code == 69 && said.contains("from root, user 0"), "{command:?}: {code} {said}");
    }
    let (code, said) = stage.stranger(&proxy, &socket, STRANGER, &["status"], "").await;
    assert!(code == 0 && said.contains("mymaster"), "{code} {said}");
    let seen = view(&proxy).await;
    assert_eq!((seen.phase.as_str(), seen.term), ("stable", term), "nothing was held, nothing has moved");
    assert!(proxy.log().contains("refused: commands are taken"), "{}", proxy.log());

    fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
    let (code, said) = stage.stranger(&proxy, &socket, STRANGER, &["hold", "--for", "60s"], ADMIN_TOKEN).await;
    assert_eq!(code, 0, "{said}");
    wait_view(&proxy, "the hold", |view| view.phase == "paused").await;
    let (admin, socket) = (proxy.admin().to_string(), socket.display().to_string());
    let own = [("SWITCHMASTER_ADMIN", admin.as_str()), ("SWITCHMASTER_ADMIN_SOCKET", &socket)];
    assert!(run(&["release"], &own).await.status.success(), "its own user has no need of it");
}

#[tokio::test]
async fn a_member_of_the_group_gives_commands_and_others_do_not() {
    let Some(stage) = Stage::open().await else { return };
    let (proxy, socket) = stage.proxy("admin.sock", &format!("?group={GROUP}")).await;
    let hold = ["hold", "--for", "60s"];
    let (code, said) = stage.stranger(&proxy, &socket, STRANGER, &hold, "").await;
    assert!(code == 69 && said.contains(&format!("group {GROUP}")), "{code} {said}");
    assert_eq!(view(&proxy).await.phase, "stable");
    let (code, said) = stage.stranger(&proxy, &socket, GROUP, &hold, "").await;
    assert_eq!(code, 0, "{said}");
    wait_view(&proxy, "the hold", |view| view.phase == "paused").await;
}

/// A hundred lines, one for each second that it took, and how many were left out.
#[tokio::test]
async fn a_flood_of_refused_commands_is_counted_and_not_logged() {
    const FLOOD: usize = 3_000;
    let spec_of = ClusterSpec { replicas: 0, sentinels: 1, ..ClusterSpec::default() };
    let cluster = Cluster::start(spec_of).await.unwrap();
    let proxy = start_as(&spec(&cluster)).await;
    wait_stable(&proxy).await;
    let began = Instant::now();
    let remote = Remote::from(proxy.admin());
    for _ in 0..FLOOD {
        let refused = remote.order(&Control::Release).await.unwrap_err();
        assert!(matches!(refused, remote::Error::Refused(_)), "{refused}");
    }
    let (mut logged, mut left_out) = (0, 0);
    until("all to be accounted for", LIMIT, async || {
        let log = proxy.log();
        let lines = log.lines().filter(|line| line.contains("refused: commands are taken"));
        let more =
            |line: &str| line.split_once(" more lines like this one were left out")?.0.rsplit(' ').next()?.parse().ok();
        let counts: Vec<Option<usize>> = lines.map(more).collect();
        (logged, left_out) = (counts.iter().filter(|count| count.is_none()).count(), counts.iter().flatten().sum());
        if logged + left_out == FLOOD {
            Ok(())
        } else {
            Err(format!("{logged} logged and {left_out} left out in\n{log}"))
        }
    })
    .await
    .unwrap();
    println!("{logged} logged, {left_out} left out");
    assert!((100..=101 + began.elapsed().as_secs() as usize).contains(&logged), "{logged} lines");
    // It keeps nothing else out of the log.
    assert!(verb(&proxy, &["hold", "--for", "1s"]).await.status.success());
    wait_log(&proxy, &["INFO", "command", "Hold"]).await;
}
