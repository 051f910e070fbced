//! A host as Forge and Ploi make them: a Redis of its own has the port, and the application's `.env` is below /home, where
//! the service may not look. Set up by the drop-ins of docs/laravel.md, as they are written there.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use switchmaster::demo::cluster::until;
use switchmaster::demo::wire::Wire;

use super::World;
use super::machine::{SOCKET, listen};
use super::visits::credentials;

const OTHER: &str = "127.0.0.1:6380";
const ENV: &str = "home/forge/example.com/.env";

/// The first `ini` block of docs/forge-ploi.md that begins with this section.
fn documented(section: &str) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forge-ploi.md")).expect("a document");
    let (_, rest) = text.split_once(&format!("```ini\n[{section}]\n")).unwrap_or_else(|| panic!("no [{section}]"));
    format!("[{section}]\n{}", rest.split("```").next().unwrap_or_default())
}

pub async fn port_and_env(world: &mut World) {
    let machine = &world.machine;
    machine.stop();
    let host_redis = TcpListener::bind(listen()).expect("the port of the host's own Redis");
    let sentinels: Vec<String> = world.cluster.sentinel_addrs().iter().map(SocketAddr::to_string).collect();
    let env = format!(
        "APP_NAME=shop\nREDIS_HOST=127.0.0.1\nREDIS_PORT=6380\nREDIS_PASSWORD={}\nREDIS_SENTINEL_HOSTS=\"{}\"\n\
         REDIS_SENTINEL_SERVICE_NAME={}\n",
        super::PASSWORD,
        sentinels.join(","),
        world.cluster.master_name()
    );
    let path = machine.path(ENV);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, env).expect("written");
    // Neither the service's user nor anybody else may read it.
    let closed = Command::new("chmod").args(["-R", "go="]).arg(machine.path("home/forge")).status();
    assert!(closed.is_ok_and(|status| status.success()));
    fs::write(machine.path("etc/switchmaster/config.toml"), "listen = [\"6380\"]\n").expect("written");
    let drop_in = |unit: &str| -> PathBuf { machine.path(&format!("etc/systemd/system/{unit}.d")) };
    for (unit, section) in [("switchmaster.socket", "Socket"), ("switchmaster.service", "Service")] {
        fs::create_dir_all(drop_in(unit)).expect("a folder");
        fs::write(drop_in(unit).join("override.conf"), documented(section)).expect("written");
    }
    machine.succeed(&["systemctl", "daemon-reload"]);
    machine.succeed(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
    let ping = async || {
        let other = OTHER.parse().expect("an address");
        let mut wire = Wire::open(other, Some(&credentials()), 0).await.map_err(|error| error.to_string())?;
        wire.ask(&["PING"]).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let served = until("it to serve at the other port", Duration::from_secs(20), ping).await.is_ok();
    let by_socket = Wire::connect_unix(&machine.seen_path(SOCKET)).await.is_ok();
    let status = machine.status();
    let hidden = machine.property("ProtectHome");
    drop(host_redis);
    for unit in ["switchmaster.socket", "switchmaster.service"] {
        fs::remove_dir_all(drop_in(unit)).expect("removed");
    }
    machine.stop();
    machine.configure("");
    machine.succeed(&["systemctl", "daemon-reload"]);
    let table = &mut world.table;
    table.demand("served beside the host's Redis", served, "true", served);
    table.demand("the Unix socket", by_socket, "true", by_socket);
    table.demand("Sentinels and password from the .env", &status, "following …", status.starts_with("following "));
    table.demand("ProtectHome", &hidden, "yes", hidden == "yes");
}

/// Another process has the port: nobody shares it, the status says why nothing starts, and when it is free the sockets are
/// systemd's, so that the next restart refuses nobody.
pub async fn port_taken(world: &mut World) {
    let machine = &world.machine;
    machine.stop();
    let other = TcpListener::bind(listen()).expect("the port");
    machine.output(&["systemctl", "start", "switchmaster.socket", "switchmaster.service"]);
    // Each second it tries again, and each start clears the status.
    let mut says = Vec::new();
    for _ in 0..40 {
        says.push(machine.status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let at_port = fs::read_to_string("/proc/net/tcp").expect("the sockets of this network");
    let listeners = at_port.lines().filter(|line| line.contains(" 0100007F:18EB 00000000:0000 0A ")).count();
    drop(other);
    let served = until("it to serve", Duration::from_secs(20), async || {
        let mut wire = Wire::open(listen(), Some(&credentials()), 0).await.map_err(|error| error.to_string())?;
        wire.ask(&["PING"]).await.map(|_| ()).map_err(|error| error.to_string())
    });
    let served = served.await.is_ok();
    let socket = machine.run(&["systemctl", "is-active", "switchmaster.socket"]);
    let table = &mut world.table;
    let named = says.iter().any(|status| status == "127.0.0.1:6379 is in use");
    table.demand("why nothing starts", named, "true", named);
    table.demand("listeners at the port meanwhile", listeners, "1", listeners == 1);
    table.demand("served when it is free", served, "true", served);
    table.demand("the socket unit then", &socket, "active", socket == "active");
}

/// Started together, as at a boot, php-fpm begins when connections are served. The unit here has its name, and does nothing.
pub async fn before_php(world: &mut World) {
    let machine = &world.machine;
    machine.stop();
    let units = [
        ("php8.4-fpm.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"),
        ("site.target", "[Unit]\nWants=php8.4-fpm.service switchmaster.socket switchmaster.service\n"),
    ];
    for (unit, text) in units {
        fs::write(machine.path("etc/systemd/system").join(unit), text).expect("written");
    }
    machine.succeed(&["systemctl", "daemon-reload"]);
    machine.succeed(&["systemctl", "start", "site.target"]);
    let moment = async |unit: &str, property: &str| {
        until("the unit to be started", Duration::from_secs(20), async || {
            let shown = machine.run(&["systemctl", "show", "--value", "--property", property, unit]);
            shown.parse::<i64>().ok().filter(|at| *at > 0).ok_or(shown)
        })
        .await
        .unwrap_or_default()
    };
    let ready = moment("switchmaster.service", "ActiveEnterTimestampMonotonic").await;
    let began = moment("php8.4-fpm.service", "InactiveExitTimestampMonotonic").await;
    machine.succeed(&["systemctl", "stop", "site.target", "php8.4-fpm.service"]);
    for (unit, _) in units {
        fs::remove_file(machine.path("etc/systemd/system").join(unit)).expect("removed");
    }
    machine.succeed(&["systemctl", "daemon-reload"]);
    let seen = format!("{} ms later", (began - ready) / 1000);
    world.table.demand("php-fpm begins when we are ready", seen, "later", ready > 0 && began >= ready);
}
