//! One redis-server on a free port, in a folder of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use switchmaster::demo::cluster::until;
use switchmaster::demo::server::{Binary, Server, free_port};
use switchmaster::wire::{Reply, Wire};
use tempfile::TempDir;

/// How long a server may load what a test gave it.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

pub struct Redis {
    pub folder: TempDir,
    server: Server,
}

impl Redis {
    /// With these lines in its configuration, and the files of `seed` in its data directory.
    pub async fn start(lines: &str, seed: impl FnOnce(&Path)) -> Redis {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        seed(&data);
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
        let config = folder.path().join("redis.conf");
        let text = format!("bind 127.0.0.1\nport {}\ndir {}\nsave \"\"\n{lines}\n", addr.port(), data.display());
        fs::write(&config, text).unwrap();
        let server = Server::new("redis", addr, Binary::redis_server().unwrap(), config);
        server.start().await.unwrap_or_else(|error| panic!("{error}"));
        let redis = Redis { folder, server };
        // It answers -LOADING to everything but INFO at first.
        let loaded = async || match redis.ask(&["PING"]).await {
            Reply::Error(text) if text.starts_with("LOADING") => Err(text),
            _ => Ok(()),
        };
        until("a server that has loaded its data", LIMIT, loaded).await.unwrap();
        redis
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    pub async fn connect(&self) -> Wire {
        Wire::connect(self.addr()).await.unwrap()
    }

    pub async fn ask(&self, request: &[&str]) -> Reply {
        self.connect().await.ask(request).await.unwrap()
    }
}
