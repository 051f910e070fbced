//! One real server alone, in a folder of its own.
//!
//! `REDIS_SERVER` says which; it ends with its value.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use switchmaster::demo::server::{Binary, ClusterError, Server, free_port};
use switchmaster::wire::{Reply, Wire};
use tempfile::TempDir;

/// A running server and its folder.
pub struct Lone {
    pub addr: SocketAddr,
    dir: TempDir,
    server: Server,
}

impl Lone {
    /// Starts one with these further lines in its configuration. It never saves by itself.
    pub async fn start(lines: &[&str]) -> Lone {
        for _ in 0..5 {
            let dir = tempfile::Builder::new().prefix("switchmaster-backup-").tempdir().unwrap();
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().unwrap()));
            let own = [
                format!("port {}", addr.port()),
                "bind 127.0.0.1".into(),
                format!("dir {}", dir.path().display()),
                "save \"\"".into(),
                "enable-debug-command yes".into(),
            ];
            let config = dir.path().join("redis.conf");
            let text: Vec<&str> = own.iter().map(String::as_str).chain(lines.iter().copied()).collect();
            std::fs::write(&config, text.join("\n")).unwrap();
            let server = Server::new("alone", addr, Binary::redis_server().unwrap(), config);
            match server.start().await {
                Ok(()) => return Lone { addr, dir, server },
                Err(ClusterError::PortTaken(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("five free ports in a row were taken");
    }

    /// A connection in a database.
    pub async fn open(&self, db: u32) -> Wire {
        Wire::open(self.addr, None, db).await.unwrap()
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.server.log_path().to_owned()
    }

    /// `kill -9`.
    pub fn kill9(&self) {
        self.server.kill9();
    }

    /// Kills it and starts it again, with what is on disk.
    pub async fn restart(&self) {
        self.server.restart().await.unwrap();
    }

    /// SAVE: the path of the RDB.
    pub async fn save(&self) -> PathBuf {
        let reply = self.open(0).await.ask(&["SAVE"]).await.unwrap();
        assert_eq!(reply, Reply::Simple("OK".into()));
        self.dir.path().join("dump.rdb")
    }
}
