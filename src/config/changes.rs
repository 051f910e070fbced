//! What a configuration that was read anew changes in a running proxy ([`Changes`]), key by key, by the table of keys.
//!
//! Nothing is carried out here, and of a secret only that it has changed is ever shown.

use std::fmt;

use super::keys::{Draft, KEYS, Key, Reload};
use super::sources::Loaded;

/// The difference between what runs and what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// What counts from now on: `hold_timeout 30s -> 45s` for each key.
    pub applied: Vec<String>,
    /// The same of what needs a restart.
    pub waiting: Vec<String>,
}

impl Loaded {
    /// What the proxy runs on after it was given `next`, which says the same as this one about all that needs a restart.
    pub fn take_over(&self, mut next: Loaded) -> (Loaded, Changes) {
        let wanted = next.draft.clone();
        for key in KEYS {
            (key.keep)(&mut next.draft.config, &self.config);
        }
        next.config.clone_from(&next.draft.config);
        let used = || KEYS.iter().filter(|key| key.reload != Reload::Unused);
        let applied = used().filter_map(|key| difference(key, &self.draft, &next.draft)).collect();
        let waiting = used().filter_map(|key| difference(key, &next.draft, &wanted)).collect();
        (next, Changes { applied, waiting })
    }

    /// This configuration with the passwords of `found`, and the user names that go with them.
    pub fn with_passwords_of(&self, found: Loaded) -> Loaded {
        let mut next = self.clone();
        (next.draft.redis, next.draft.sentinel) = (found.draft.redis, found.draft.sentinel);
        let sentinel = &mut next.draft.config.sentinel;
        (sentinel.redis_auth, sentinel.auth) = (found.config.sentinel.redis_auth, found.config.sentinel.auth);
        next.draft.config.admin_token = found.config.admin_token;
        next.draft.config.notify.webhook = found.config.notify.webhook;
        next.draft.config.notify.heartbeat = found.config.notify.heartbeat;
        next.config.clone_from(&next.draft.config);
        next
    }
}

fn difference(key: &Key, before: &Draft, after: &Draft) -> Option<String> {
    if key.is_same(before, after) {
        return None;
    }
    if key.is_secret() {
        return Some(format!("{} has changed", key.name));
    }
    let bare = |draft| key.show(draft).map_or("not set".to_owned(), |toml| toml.trim_matches('"').to_owned());
    Some(format!("{} {} -> {}", key.name, bare(before), bare(after)))
}

impl Changes {
    /// There is no difference.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.waiting.is_empty()
    }

    /// What counts from now on, in one line.
    pub fn summary(&self) -> String {
        match self.applied.as_slice() {
            [] if self.waiting.is_empty() => "reloaded: nothing has changed".into(),
            [] => "reloaded: nothing changes without a restart".into(),
            applied => format!("reloaded: {}", applied.join(", ")),
        }
    }
}

impl fmt::Display for Changes {
    /// The summary, and a line for each change that waits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())?;
        self.waiting.iter().try_for_each(|waiting| write!(f, "\nneeds a restart: {waiting}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Config, Sources};
    use super::*;

    /// What stands in a file, read.
    fn read(folder: &Path, text: &str) -> Loaded {
        let file = folder.join("config.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(&Sources { config: Some(file), ..Sources::default() }).unwrap()
    }

    fn after(before: &str, next: &str) -> (Loaded, Changes) {
        let folder = tempfile::tempdir().unwrap();
        read(folder.path(), before).take_over(read(folder.path(), next))
    }

    #[test]
    fn what_needs_no_restart_is_taken_over_and_the_rest_is_named() {
        let before = "hold_timeout = \"30s\"\nworkers = 2\nlog_level = \"info\"";
        let (now, changes) = after(before, "hold_timeout = \"45s\"\nworkers = 3\nmax_clients = 7");
        assert_eq!(changes.applied, ["hold_timeout 30s -> 45s", "max_clients 10000 -> 7"]);
        assert_eq!(changes.waiting, ["workers 2 -> 3"]);
        assert_eq!((now.config.workers, now.config.max_clients), (2, 7));
        assert_eq!(
            changes.to_string(),
            "reloaded: hold_timeout 30s -> 45s, max_clients 10000 -> 7\nneeds a restart: workers 2 -> 3"
        );
    }

    #[test]
    fn what_waits_for_a_restart_is_named_each_time_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut running = read(folder.path(), "workers = 2");
        for _ in 0..2 {
            let (next, changes) = running.take_over(read(folder.path(), "workers = 3\nadmin = \"off\""));
            assert!(changes.applied.is_empty(), "{changes}");
            assert_eq!(
                changes.to_string(),
                "reloaded: nothing changes without a restart\n\
                 needs a restart: admin 127.0.0.1:9379 -> off\n\
                 needs a restart: workers 2 -> 3"
            );
            running = next;
        }
        let (_, changes) = running.take_over(read(folder.path(), "workers = 2"));
        assert!(changes.is_empty());
        assert_eq!(changes.to_string(), "reloaded: nothing has changed");
    }

    #[test]
    fn listeners_and_their_options_are_taken_over() {
        for (before, next) in [
            ("listen = \"1\"", "listen = \"1?hold_timeout=3s\""),
            ("listen = \"unix:/a\"", "listen = \"unix:/a?mode=600&hold_timeout=3s\""),
            ("listen = \"1\"", "listen = [\"2?hold_timeout=3s\", \"1\"]"),
        ] {
            let (now, changes) = after(before, next);
            assert!(changes.waiting.is_empty() && changes.applied.len() == 1, "{changes}");
            assert!(now.config.listen[0].hold_timeout.is_some());
        }
        let (_, changes) = after("listen = \"1\"", "listen = \"1?hold_timeout=3s\"");
        assert_eq!(changes.applied, ["listen [\"127.0.0.1:1\"] -> [\"127.0.0.1:1?hold_timeout=3s\"]"]);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let (before, next) = ("redis_password = \"hunter1\"", "redis_password = \"hunter2\"\nredis_username = \"app\"");
        let (now, changes) = after(before, next);
        assert_eq!(changes.to_string(), "reloaded: redis_username not set -> app, redis_password has changed");
        let auth = now.config.sentinel.redis_auth.expect("credentials");
        assert_eq!((auth.username.as_deref(), auth.password.reveal()), (Some(&b"app"[..]), "hunter2"));
    }

    #[test]
    fn of_a_look_at_the_passwords_nothing_else_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let running = read(folder.path(), "redis_password = \"a\"\nhold_timeout = \"30s\"");
        let found = read(folder.path(), "redis_password = \"b\"\nhold_timeout = \"45s\"");
        let (now, changes) = running.take_over(running.with_passwords_of(found));
        assert_eq!(changes.to_string(), "reloaded: redis_password has changed");
        assert_eq!(now.config.failover.hold_timeout, running.config.failover.hold_timeout);
    }

    #[test]
    fn what_only_backups_read_is_no_change() {
        let (_, changes) = after("", "backup_store = \"file:///srv\"\nbackup_recipients = [\"age1x\"]");
        assert!(changes.is_empty(), "{changes}");
    }

    #[test]
    fn a_key_is_kept_exactly_if_it_needs_a_restart() {
        let other = "listen = \"1\"\nadmin = \"2\"\nadmin_socket = \"/s\"\nadmin_token = \"0123456789abcdef\"\nsentinels = \"a\"\nmaster_name = \"b\"\n\
            redis_username = \"c\"\nredis_password = \"d\"\nsentinel_username = \"e\"\nsentinel_password = \"f\"\n\
            learn_credentials = false\naddress_map = { \"g:1\" = \"h:2\" }\nhold_timeout = \"9s\"\nplanned_hold_limit = \"3s\"\n\
            on_lost_reply = \"close\"\non_lost_pop = \"close\"\nretain_bytes = 1\nretain_total = 2\nwarm_backends = 1\n\
            reuse_backends = true\ndetach_idle_after = \"1s\"\nminority = \"stop\"\nheartbeat = \"1s\"\nsuspect_after = \"9s\"\n\
            poll_interval = \"2s\"\nwebhook_url = \"http://h/\"\nheartbeat_url = \"http://h/\"\n\
            heartbeat_interval = \"2s\"\nworkers = 1000\nmax_clients = 1\ndrain_grace = \"1s\"\nstate_dir = \"i\"\n\
            log_level = \"error\"\nlog_format = \"json\"";
        let (_, changes) = after("", other);
        for key in KEYS.iter().filter(|key| key.reload != Reload::Unused && key.name != "laravel_env") {
            let named = |lines: &[String]| lines.iter().any(|line| line.split(' ').next() == Some(key.name));
            let (applied, waiting) = (named(&changes.applied), named(&changes.waiting));
            assert_eq!(
                (applied, waiting),
                (key.reload != Reload::Restart, key.reload == Reload::Restart),
                "{}",
                key.name
            );
        }
    }
}
