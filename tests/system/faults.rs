//! What the units promise one by one: hardened, ready when it serves, a reload's outcome, a thread that hangs, a state file
//! that is not right.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::Wire;

use super::World;
use super::machine::{SOCKET, listen};
use super::visits::credentials;

/// As contrib/switchmaster.service has it.
const WATCHDOG: Duration = Duration::from_secs(10);
const STATE: &str = "var/lib/private/switchmaster/master-mymaster.json";

async fn is_served() -> bool {
    let served = async { Wire::open(listen(), Some(&credentials()), 0).await?.ask(&["PING"]).await };
    tokio::time::timeout(Duration::from_secs(20), served).await.is_ok_and(|served| served.is_ok())
}

pub async fn units(world: &mut World) {
    let machine = &world.machine;
    let security = machine.run(&["systemd-analyze", "security", "--no-pager", "switchmaster.service"]);
    let exposure =
        security.lines().last().and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let verify = machine.output(&["systemd-analyze", "verify", "switchmaster.service", "switchmaster.socket"]);
    let status = machine.status();
    let by_socket = Wire::connect_unix(&machine.seen_path(SOCKET)).await.is_ok();
    let command = machine.output(&["switchmaster", "reload"]);
    let command = String::from_utf8_lossy(&command.stdout).trim().to_owned();
    let second = machine.output(&["timeout", "10", "switchmaster", "serve", "--admin", "127.0.0.1:9380"]);
    let second = String::from_utf8_lossy(&second.stderr).into_owned();
    let table = &mut world.table;
    table.demand("exposure", format!("{exposure:?}"), "below 2", exposure.is_some_and(|exposure| exposure < 2.0));
    table.demand(
        "units as systemd reads them",
        String::from_utf8_lossy(&verify.stderr).trim(),
        "",
        verify.stderr.is_empty(),
    );
    table.demand(
        "status",
        &status,
        "following …",
        status.starts_with("following 127.0.0.1:") && status.ends_with("sessions"),
    );
    table.demand("the Unix socket", by_socket, "true", by_socket);
    table.demand("a command of root by the admin socket", &command, "reloaded", command.starts_with("reloaded"));
    let named = second.contains("127.0.0.1:6379 is in use, held by");
    table.demand("a second process at the same port", last_line(&second), "named", named);
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

/// Ready all the same, so that systemd does not end it; served once Redis is there.
pub async fn start_without_redis(world: &mut World) {
    world.machine.stop();
    let config = world.machine.path("etc/switchmaster/config.toml");
    let real = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, "sentinels = [\"127.0.0.1:1\"]\nmaster_name = \"other\"\n").expect("written");
    let began = Instant::now();
    world.machine.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
    let ready = began.elapsed();
    let status = world.machine.status();
    fs::write(&config, real).expect("written");
    let restarts = world.machine.property("NRestarts");
    world.machine.succeed(&["systemctl", "restart", "switchmaster"]);
    let began = Instant::now();
    let served = is_served().await;
    let table = &mut world.table;
    table.demand(
        "ready without a master",
        format!("{} ms", ready.as_millis()),
        "5 to 8 s",
        (5000..8000).contains(&ready.as_millis()),
    );
    table.demand("status", &status, "looking for …", status.starts_with("looking for the master, requests are held"));
    table.demand("restarts", &restarts, "0", restarts == "0");
    table.demand("served when it is there", format!("{served}, {} ms", began.elapsed().as_millis()), "true", served);
}

pub async fn reload(world: &mut World) {
    let machine = &world.machine;
    let pid = machine.property("MainPID");
    machine.configure("log_level = \"debug\"\n");
    machine.succeed(&["systemctl", "reload", "switchmaster"]);
    let heard = until("the reload", Duration::from_secs(5), async || {
        let journal = machine.journal(20);
        if journal.contains("log_level") { Ok(()) } else { Err(journal) }
    });
    let heard = heard.await.is_ok();
    machine.configure("minority = \"nonsense\"\n");
    machine.succeed(&["systemctl", "reload", "switchmaster"]);
    let shown = until("the status", Duration::from_secs(5), async || {
        let status = machine.status();
        if status.contains("the last reload changed nothing") { Ok(status) } else { Err(status) }
    });
    let shown = shown.await.unwrap_or_default();
    machine.configure("");
    machine.succeed(&["systemctl", "reload", "switchmaster"]);
    machine.following().await;
    let status = machine.status();
    let same = machine.property("MainPID") == pid && machine.property("ActiveState") == "active";
    let table = &mut world.table;
    table.demand("a change is in the journal", heard, "true", heard);
    table.demand("a wrong file is in the status", last_line(&shown), "nonsense", shown.contains("nonsense"));
    table.demand("and no longer once it is right", &status, "following …", !status.contains("reload"));
    table.demand("the same process", same, "true", same);
}

pub async fn stuck_worker(world: &mut World) {
    stuck(world, "worker-0").await;
}

pub async fn stuck_control(world: &mut World) {
    stuck(world, "control").await;
}

/// Stops one thread alone, as a debugger does: ended by the watchdog, and served again.
async fn stuck(world: &mut World, thread: &str) {
    let machine = &world.machine;
    let pid = machine.main_pid().expect("it runs");
    let task = task_of(pid, thread).expect("the thread");
    let before = machine.property("NRestarts");
    let mut tracer = stop_thread(task);
    let began = Instant::now();
    let restarted = until("the watchdog", WATCHDOG * 2, async || {
        if machine.property("NRestarts") != before { Ok(()) } else { Err("it runs on".into()) }
    });
    let restarted = restarted.await.is_ok();
    let ended = began.elapsed();
    let _ = tracer.kill();
    let _ = tracer.wait();
    let served = is_served().await;
    let named = machine.journal(200).contains(&format!("stuck: {thread}"));
    let table = &mut world.table;
    let in_time = restarted && ended < WATCHDOG + Duration::from_secs(3);
    table.demand("ended by the watchdog", format!("{} ms", ended.as_millis()), "within 13 s", in_time);
    table.demand("named in the log", named, "true", named);
    table.demand("served again", format!("{served}, {} ms", began.elapsed().as_millis()), "true", served);
}

fn task_of(pid: u32, thread: &str) -> Option<u32> {
    fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().find_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        (name.trim() == thread).then(|| task.file_name().to_str()?.parse().ok())?
    })
}

/// Until the returned process ends (ptrace(2): the thread stops, and nobody lets it go on).
fn stop_thread(task: u32) -> Child {
    // Its end is to be reaped by whoever traces it (0x40000000: __WALL).
    let script = "import ctypes, os, sys\ntask = int(sys.argv[1])\nlibc = ctypes.CDLL(None, use_errno=True)\n\
                  assert libc.ptrace(16, task, None, None) == 0, ctypes.get_errno()\n\
                  while os.WIFSTOPPED(os.waitpid(task, 0x40000000)[1]): pass";
    Command::new("python3").args(["-c", script, &task.to_string()]).spawn().expect("python3 runs")
}

/// Connections wait until somebody has corrected it; no limit of starts is reached.
pub async fn wrong_configuration(world: &mut World) {
    let machine = &world.machine;
    machine.configure("minority = \"nonsense\"\n");
    machine.output(&["systemctl", "restart", "switchmaster"]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let starts = machine.property("NRestarts");
    // Each start clears it, and says it again.
    let status = until("the status", Duration::from_secs(3), async || {
        let status = machine.status();
        if status.contains("nonsense") { Ok(status) } else { Err(status) }
    });
    let status = status.await.unwrap_or_default();
    let waiting = tokio::spawn(is_served());
    tokio::time::sleep(Duration::from_millis(500)).await;
    machine.configure("");
    let corrected = Instant::now();
    let served = waiting.await.unwrap_or(false);
    let took = corrected.elapsed();
    let starts: usize = starts.parse().unwrap_or(0);
    let table = &mut world.table;
    table.demand("starts within 8 s", starts, "4 to 9", (4..=9).contains(&starts));
    table.demand("status", last_line(&status), "says why", status.contains("nonsense"));
    table.demand(
        "who waited is served",
        format!("{served}, {} ms", took.as_millis()),
        "within 3 s",
        served && took < Duration::from_secs(3),
    );
}

pub async fn state_file(world: &mut World) {
    let other = r#"{"name":"other","addr":"127.0.0.1:1","epoch":999}"#;
    for (what, content) in
        [("empty", ""), ("cut off", "{\"name\":\"mym"), ("of another master", other), ("binary", "\0\u{1}")]
    {
        let machine = &world.machine;
        machine.succeed(&["systemctl", "stop", "switchmaster.socket", "switchmaster.service"]);
        fs::write(machine.path(STATE), content).expect("written");
        machine.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
        let served = is_served().await;
        let said = machine.journal(30).contains("going on without it");
        world.table.demand(
            &format!("a file that is {what}: served, logged"),
            format!("{served}, {said}"),
            "true, true",
            served && said,
        );
    }
    full_disk(world).await;
}

async fn full_disk(world: &mut World) {
    let machine = &world.machine;
    let folder = format!("/{}", STATE.rsplit_once('/').expect("a folder").0);
    machine.succeed(&["systemctl", "stop", "switchmaster.socket", "switchmaster.service"]);
    machine.succeed(&["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", &folder]);
    machine.run(&[
        "sh",
        "-c",
        &format!(
            "dd if=/dev/zero of={folder}/full bs=4k; chown -R --reference={folder}/.. {folder}; chmod 777 {folder}"
        ),
    ]);
    machine.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
    let served = is_served().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let journal = machine.journal(60);
    let said = journal.matches("cannot be remembered").count();
    machine.succeed(&["systemctl", "stop", "switchmaster.socket", "switchmaster.service"]);
    machine.succeed(&["umount", &folder]);
    machine.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
    world.table.demand("a full disk: served", served, "true", served);
    world.table.demand("a full disk: lines in the log", said, "1", said == 1);
}
