//! A real Laravel 13 application on a host: its own copy of tests/laravel/app, its .env, its processes.
//!
//! PHP, php-fpm and the framework are those of the folder with Debian forky, by chroot: same network, same processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::PASSWORD;
use super::diary::Diary;
use super::host::Host;

/// Seconds after which a job that was popped comes back.
const RETRY_AFTER: u64 = 30;

/// The application, as one set of processes knows it.
#[derive(Debug)]
pub struct App<'a> {
    /// `phpredis` or `predis`, and what else tells it from the others.
    pub name: String,
    pub host: &'a Host,
    /// Outside the folder of forky, and inside.
    dir: PathBuf,
    inside: String,
    forky: PathBuf,
}

impl<'a> App<'a> {
    /// Its files below `forky`; Redis is at `redis`. `more`: lines of its .env.
    pub fn new(host: &'a Host, forky: &Path, name: &str, redis: &str, more: &str) -> App<'a> {
        let inside = format!("/tmp/hosts-{}/{}-{}", super::unix_ms(), host.name, name.replace(' ', "-"));
        let dir = forky.join(&inside[1..]);
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/laravel/app"), &dir);
        for folder in [
            "bootstrap/cache",
            "storage/logs",
            "storage/framework/cache",
            "storage/framework/sessions",
            "storage/framework/views",
        ] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("storage/database.sqlite"), "").unwrap();
        let client = name.split(' ').next().unwrap();
        let env = format!(
            "APP_KEY=base64:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nAPP_ENV=production\nREDIS_CLIENT={client}\n\
             REDIS_HOST={redis}\nREDIS_PORT=6379\nREDIS_PASSWORD={PASSWORD}\nCACHE_STORE=redis\nQUEUE_CONNECTION=redis\n\
             SESSION_DRIVER=redis\nBROADCAST_CONNECTION=redis\nDB_CONNECTION=sqlite\nDB_DATABASE={inside}/storage/database.sqlite\n\
             REDIS_QUEUE={queue}\nREDIS_QUEUE_RETRY_AFTER={RETRY_AFTER}\n{more}\n",
            queue = name.replace(' ', "-")
        );
        fs::write(dir.join(".env"), env).unwrap();
        // php-fpm's children are another user.
        assert!(Command::new("chmod").args(["-R", "a+rwX"]).arg(&dir).status().unwrap().success());
        App { name: name.into(), host, dir, inside, forky: forky.into() }
    }

    /// Starts an artisan command as a process of its own, started again a second after its end, as Supervisor would.
    pub fn start(&self, role: &str, artisan: &str) {
        let script = format!(
            "export DIARY={0}/storage/{role}.diary; while :; do php {0}/artisan {artisan}; echo \"exit code $?\"; sleep 1; done",
            self.inside
        );
        let mut command = self.host.command("chroot");
        command.arg(&self.forky).args(["sh", "-c", &script]);
        self.host.start(&self.process(role), command);
    }

    /// A pusher, a worker; and with `all` what passes through the rest of Laravel's uses of Redis, and a listener.
    pub fn start_jobs(&self, rate: u32, all: bool) {
        let run = format!("{}{}", self.name.replace(' ', ""), self.host.name);
        self.start("work", "queue:work redis --tries=3 --sleep=0 --timeout=15");
        self.start("push", &format!("push {run} --rate={rate}"));
        if all {
            self.start("listen", "listen");
            self.start("exercise", &format!("exercise {run}x --rate=3"));
        }
    }

    /// php-fpm with five children at 127.0.0.1:9000, and nginx before it at port 80.
    pub fn serve(&self) {
        let fpm = format!(
            "[global]\ndaemonize = no\nerror_log = {0}/storage/fpm.log\n[www]\nuser = www-data\ngroup = www-data\n\
             listen = 127.0.0.1:9000\npm = static\npm.max_children = 5\nclear_env = no\n",
            self.inside
        );
        fs::write(self.dir.join("fpm.conf"), fpm).unwrap();
        let mut command = self.host.command("chroot");
        command
            .arg(&self.forky)
            .args(["/usr/sbin/php-fpm8.4", "--nodaemonize", "--fpm-config"])
            .arg(format!("{}/fpm.conf", self.inside));
        command.env("DIARY", format!("{}/storage/web.diary", self.inside));
        self.host.start("php-fpm", command);
        let nginx = format!(
            "daemon off;\nerror_log stderr;\npid {dir}/nginx.pid;\nworker_processes 1;\nevents {{ worker_connections 256; }}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {dir}/body;\nproxy_temp_path {dir}/proxy;\nfastcgi_temp_path {dir}/fastcgi;\n\
             uwsgi_temp_path {dir}/uwsgi;\nscgi_temp_path {dir}/scgi;\nserver {{ listen 80; location / {{\n\
             include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME {inside}/public/index.php;\n\
             fastcgi_pass 127.0.0.1:9000; fastcgi_read_timeout 60s; }} }} }}\n",
            dir = self.host.dir.display(),
            inside = self.inside
        );
        let config = self.host.dir.join("nginx.conf");
        fs::write(&config, nginx).unwrap();
        let mut command = self.host.command("nginx");
        command.arg("-c").arg(config);
        self.host.start("nginx", command);
    }

    /// No new job from now on.
    pub fn stop_pushing(&self) {
        for role in ["push", "exercise"] {
            self.host.end(&self.process(role), rustix::process::Signal::TERM);
        }
    }

    /// What all its processes have noted so far.
    pub fn diary(&self) -> Diary {
        let mut diary = Diary::default();
        for role in ["push", "work", "exercise", "listen", "web"] {
            diary.add(&fs::read_to_string(self.dir.join(format!("storage/{role}.diary"))).unwrap_or_default());
        }
        diary
    }

    /// The name of its queue.
    pub fn queue(&self) -> String {
        self.name.replace(' ', "-")
    }

    /// How often its processes had to be started again, and with which exit codes.
    pub fn exits(&self) -> Vec<String> {
        let log = |role: &str| self.host.log(&self.process(role));
        let codes = |role| {
            log(role)
                .lines()
                .filter(|line| line.starts_with("exit code"))
                .map(|line| format!("{role}: {line}"))
                .collect::<Vec<_>>()
        };
        ["push", "work", "exercise", "listen"].into_iter().flat_map(codes).collect()
    }

    fn process(&self, role: &str) -> String {
        format!("{role}-{}", self.queue())
    }
}

impl Drop for App<'_> {
    fn drop(&mut self) {
        for name in self.host.names() {
            if name.ends_with(&self.queue()) || name == "php-fpm" {
                self.host.end(&name, rustix::process::Signal::KILL);
            }
        }
        let _ = fs::remove_dir_all(self.dir.parent().unwrap());
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    assert!(Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}
