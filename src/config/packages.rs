//! The names that Sentinel packages for Laravel use, and what they mean here.
//!
//! They yield to switchmaster's own names. What is assumed, and what looks like a Sentinel setting and is not
//! understood, is reported: nothing about Sentinels is ignored in silence.
//!
//! Sources: the README and `config/redis-sentinel.php` of monospice/laravel-redis-sentinel-drivers 2, the READMEs of
//! namoshek/laravel-redis-sentinel, goopil/laravel-redis-sentinel, cooperaj/laravel-redis-sentinel and
//! hxd/redis-sentinel-switch.

use std::collections::BTreeMap;

use super::layer::{Found, Layer};
use super::origin::Origin;
use super::problem::Problem;
use super::value::Raw;
use super::{DEFAULT_SENTINEL_PORT, HostPort};

/// Hosts, several in one value; a port that is missing is that of [`PORT`].
const HOSTS: &[&str] =
    &["REDIS_SENTINELS", "REDIS_SENTINEL_HOST", "REDIS_SENTINEL_NODES", "REDIS_SENTINEL_NODE", "REDIS_SENTINEL"];
/// One host each: a number follows.
const NUMBERED: &[&str] = &["REDIS_SENTINEL_", "REDIS_SENTINEL_HOST_"];
const PORT: &str = "REDIS_SENTINEL_PORT";
const SERVICE: &[&str] =
    &["REDIS_SENTINEL_SERVICE", "REDIS_SENTINEL_MASTER", "REDIS_SENTINEL_MASTER_NAME", "REDIS_MASTER_NAME"];
/// How an application behaves, which is nothing to us.
const BEHAVIOUR: &[&str] = &[
    "AUTO_BOOT",
    "CONNECTION",
    "DATABASE",
    "DB",
    "DISCOVERY",
    "EMIT_SUCCESS_EVENTS",
    "ENABLED",
    "ENABLE",
    "LOG_CHANNEL",
    "LOG_NOTIFY_SWALLOWED",
    "NODE_CACHE_TTL",
    "OVERRIDE_LARAVEL_REDIS",
    "PERSISTENT",
    "READ_TIMEOUT",
    "RETRY_INTERVAL",
    "RETRY_LIMIT",
    "RETRY_WAIT",
    "TIMEOUT",
];
/// Variables that say `redis-sentinel` where monospice's package is used.
const DRIVERS: &[&str] =
    &["REDIS_DRIVER", "CACHE_DRIVER", "SESSION_DRIVER", "QUEUE_CONNECTION", "QUEUE_DRIVER", "BROADCAST_DRIVER"];

/// Each variable that has a value, by its name, with the place where it stands.
pub(super) type Variables = BTreeMap<String, (String, Origin)>;

/// Whether `name` matters here, so that a line that cannot be read is a mistake.
pub(super) fn is_known(name: &str) -> bool {
    name == PORT || HOSTS.contains(&name) || SERVICE.contains(&name) || is_numbered(name)
}

fn is_numbered(name: &str) -> bool {
    let number = |rest: &str| !rest.is_empty() && rest.len() <= 2 && rest.bytes().all(|byte| byte.is_ascii_digit());
    NUMBERED.iter().any(|prefix| name.strip_prefix(prefix).is_some_and(number))
}

/// Adds to `layer`, which holds what switchmaster's own names say, what the packages' names say besides.
pub(super) fn fill(layer: &mut Layer, variables: &Variables, warnings: &mut Vec<Problem>) {
    let monospice = is_monospice(variables);
    let mut put = |key: &'static str, raw: Raw, origin: &Origin| {
        layer.entry(key).or_insert_with(|| Found { raw, origin: origin.clone(), read_from: None });
    };
    if let Some((hosts, origin)) = hosts(variables, monospice) {
        put("sentinels", Raw::List(hosts), origin);
    }
    if let Some((service, origin)) = SERVICE.iter().find_map(|name| variables.get(*name)) {
        put("master_name", Raw::Text(service.clone()), origin);
    }
    let password = variables.get("REDIS_SENTINEL_PASSWORD").filter(|_| monospice);
    if let Some((password, origin)) = password
        && layer.get("sentinel_password").is_some_and(|found| found.origin == *origin)
    {
        layer.remove("sentinel_password");
        let found = Found { raw: Raw::Text(password.clone()), origin: origin.clone(), read_from: None };
        layer.insert("redis_password", found);
        let text = "REDIS_SENTINEL_PASSWORD is taken for the password of the Redis nodes, as \
                    monospice/laravel-redis-sentinel-drivers (a driver is redis-sentinel) means it; if it is the \
                    Sentinels', set SWITCHMASTER_REDIS_PASSWORD and SWITCHMASTER_SENTINEL_PASSWORD";
        warnings.push(Problem::at(origin, text));
    }
    report(variables, monospice, warnings);
}

/// There `REDIS_SENTINEL_PASSWORD` is the nodes' (its Sentinels know no password), and `REDIS_HOST` may be Sentinels.
fn is_monospice(variables: &Variables) -> bool {
    let is = |name: &str, wanted: &str| variables.get(name).is_some_and(|(value, _)| value == wanted);
    DRIVERS.iter().any(|name| is(name, "redis-sentinel")) && !is("REDIS_CLIENT", "phpredis-sentinel")
}

fn hosts(variables: &Variables, monospice: bool) -> Option<(Vec<String>, &Origin)> {
    let port = |name: &str| variables.get(name).and_then(|(port, _)| port.trim().parse::<u16>().ok());
    let given = HOSTS.iter().find_map(|name| variables.get(*name));
    if let Some((hosts, origin)) = given {
        return Some((list(hosts, port(PORT)), origin));
    }
    let numbered: Vec<&(String, Origin)> =
        variables.iter().filter(|(name, _)| is_numbered(name)).map(|(_, found)| found).collect();
    if let Some((_, origin)) = numbered.first() {
        return Some((numbered.iter().flat_map(|(host, _)| list(host, port(PORT))).collect(), origin));
    }
    // One set of names for a lone Redis and for Sentinels: only the second has several hosts, or Sentinel's port.
    let (hosts, origin) = variables.get("REDIS_HOST").filter(|_| monospice)?;
    let of_sentinels = hosts.contains(',') || port("REDIS_PORT") == Some(DEFAULT_SENTINEL_PORT);
    of_sentinels.then(|| (list(hosts, port("REDIS_PORT")), origin))
}

/// Each host with its port. What is none stays as it is: the key refuses it.
fn list(hosts: &str, port: Option<u16>) -> Vec<String> {
    let items = hosts.split([',', ';', ' ']).filter(|item| !item.is_empty());
    let with_port = |item: &str| {
        let bare = item.strip_prefix("tcp://").map_or(item, |rest| rest.split(['?', '/']).next().unwrap_or_default());
        let host = HostPort::parse(bare, Some(port.unwrap_or(DEFAULT_SENTINEL_PORT)));
        host.map_or_else(|_| item.to_owned(), |host| host.to_string())
    };
    items.map(with_port).collect()
}

fn report(variables: &Variables, monospice: bool, warnings: &mut Vec<Problem>) {
    const SET: &str =
        "set REDIS_SENTINEL_HOSTS, REDIS_SENTINEL_SERVICE_NAME, REDIS_PASSWORD or REDIS_SENTINEL_PASSWORD";
    for (name, (value, origin)) in variables {
        let upper = name.to_ascii_uppercase();
        let ours = super::KEYS.iter().any(|key| key.laravel == Some(name.as_str()));
        let behaviour = BEHAVIOUR.iter().any(|what| upper.ends_with(&format!("SENTINEL_{what}")));
        // Kubernetes makes these for a Service.
        let service = upper.contains("_SERVICE_HOST") || upper.contains("_SERVICE_PORT") || upper.contains("_PORT_");
        let url =
            upper.ends_with("_URL") && value.split("://").next().is_some_and(|scheme| scheme.contains("sentinel"));
        let part = ["BROADCAST", "CACHE", "SESSION", "QUEUE"].iter().find_map(|part| {
            let rest = upper.strip_prefix("REDIS_")?.strip_prefix(part)?;
            matches!(rest, "_SERVICE" | "_HOST").then_some(())
        });
        if part.is_some() && monospice {
            let text = format!(
                "{name} is not read: one switchmaster follows one master; where that is another one, start a second switchmaster for it"
            );
            warnings.push(Problem::at(origin, text));
        } else if url || (upper.contains("SENTINEL") && !is_known(name) && !ours && !behaviour && !service) {
            let text = format!("{name} looks like a setting of Sentinel, and is not understood: {SET}");
            warnings.push(Problem::at(origin, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Vec<String>, Vec<String>) {
        let mut layer = Layer::new();
        let mut variables = Variables::new();
        for line in lines {
            let (name, value) = line.split_once('=').expect("NAME=value");
            let origin = Origin::Environment(name.to_owned());
            if let Some(key) = super::super::KEYS.iter().find(|key| key.laravel == Some(name)) {
                layer.insert(key.name, Found { raw: Raw::Text(value.into()), origin: origin.clone(), read_from: None });
            }
            variables.insert(name.to_owned(), (value.to_owned(), origin));
        }
        let mut warnings = Vec::new();
        fill(&mut layer, &variables, &mut warnings);
        let shown = layer.iter().map(|(key, found)| match &found.raw {
            Raw::Text(text) => format!("{key}={text}"),
            Raw::List(items) => format!("{key}={}", items.join(",")),
            _ => unreachable!("text or a list"),
        });
        (shown.collect(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_names_of_each_package_are_understood() {
        for (lines, expected) in [
            (
                &["REDIS_SENTINEL_HOST=10.0.0.1,10.0.0.2:7", "REDIS_SENTINEL_PORT=26380", "REDIS_SENTINEL_SERVICE=m"][..],
                &["master_name=m", "sentinels=10.0.0.1:26380,10.0.0.2:7"][..],
            ),
            (
                &["REDIS_SENTINEL_1=a", "REDIS_SENTINEL_2=b:1", "REDIS_SENTINEL_MASTER=m"],
                &["master_name=m", "sentinels=a:26379,b:1"],
            ),
            (&["REDIS_SENTINEL=tcp://a:26379?timeout=0.1,tcp://b:26379"], &["sentinels=a:26379,b:26379"]),
            (&["REDIS_SENTINEL_NODE=a;b:2"], &["sentinels=a:26379,b:2"]),
            (
                &[
                    "REDIS_SENTINEL_HOSTS=own:1",
                    "REDIS_SENTINEL_HOST=other",
                    "REDIS_SENTINEL_PORT=tcp://10.0.0.1:26379",
                ],
                &["sentinels=own:1"],
            ),
            (
                &["REDIS_DRIVER=redis-sentinel", "REDIS_HOST=a, b", "REDIS_PORT=26379", "REDIS_PASSWORD=pw"],
                &["redis_password=pw", "sentinels=a:26379,b:26379"],
            ),
            (&["REDIS_DRIVER=redis-sentinel", "REDIS_HOST=127.0.0.1", "REDIS_PORT=6379"], &[]),
            (
                &["REDIS_CLIENT=phpredis-sentinel", "REDIS_SENTINEL_PASSWORD=sp", "REDIS_PASSWORD=pw"],
                &["redis_password=pw", "sentinel_password=sp"],
            ),
            (&["REDIS_SENTINEL_TIMEOUT=1", "REDIS_SENTINEL_SERVICE_HOST=10.96.0.1", "REDIS_URL=redis://x"], &[]),
        ] {
            let (understood, warnings) = read(lines);
            assert_eq!(understood, expected, "{lines:?}");
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }

    #[test]
    fn what_is_assumed_or_not_understood_is_reported_without_its_value() {
        let monospice = ["QUEUE_CONNECTION=redis-sentinel", "REDIS_SENTINEL_PASSWORD=hunter2", "REDIS_PASSWORD=other"];
        let (understood, warnings) = read(&monospice);
        assert_eq!(understood, ["redis_password=hunter2"]);
        assert!(
            warnings[0].contains("password of the Redis nodes") && !warnings[0].contains("hunter2"),
            "{warnings:?}"
        );
        for line in
            ["REDIS_SENTINEL_ADDRESSES=a:1", "MY_SENTINELS=a", "REDIS_URL=redis+sentinel://:hunter2@a:26379/mymaster"]
        {
            let (understood, warnings) = read(&[line]);
            assert!(understood.is_empty(), "{understood:?}");
            let name = line.split('=').next().expect("a name");
            assert!(warnings.len() == 1 && warnings[0].contains(name), "{line}: {warnings:?}");
            assert!(warnings[0].contains("REDIS_SENTINEL_HOSTS") && !warnings[0].contains("hunter2"), "{warnings:?}");
        }
        let (_, warnings) = read(&["REDIS_DRIVER=redis-sentinel", "REDIS_QUEUE_SERVICE=second"]);
        assert!(warnings[0].contains("one switchmaster follows one master"), "{warnings:?}");
    }
}
