//! What no single value can tell: rules between keys, and credentials put together.
//!
//! Runs only when every value is right on its own.

use std::collections::BTreeMap;

use super::address::reaches;
use super::keys::{Account, Draft};
use super::origin::Origin;
use super::problem::Problem;
use super::{Config, HoldTimeout, HostPort};
use crate::net::ListenAddr;
use crate::secret::Credentials;
use crate::{duration, size};

const REDIS: (&str, &str) = ("redis_username", "redis_password");
const SENTINEL: (&str, &str) = ("sentinel_username", "sentinel_password");

type Origins = BTreeMap<&'static str, Origin>;

/// Puts the credentials together and checks the rules between keys.
pub(super) fn complete(draft: &mut Draft, origins: &Origins, problems: &mut Vec<Problem>) {
    draft.config.sentinel.redis_auth = credentials(&mut draft.redis, REDIS, origins, problems);
    draft.config.sentinel.auth = credentials(&mut draft.sentinel, SENTINEL, origins, problems);
    let config = &mut draft.config;
    limit_planned_hold(config, origins);
    let mut refuse = |key: &str, message: String| problems.push(Problem::at(&origins[key], message));
    for rule in [
        rule_own_addresses,
        rule_no_loop,
        rule_sentinels_can_be_dialled,
        rule_suspicion_outlasts_heartbeats,
        rule_memory_is_enough_for_one,
        rule_listeners_hold_no_longer,
        rule_planned_hold_can_end,
    ] {
        rule(config, origins, &mut refuse);
    }
}

/// Takes the key at fault, and what is wrong.
type Refuse<'a> = &'a mut dyn FnMut(&str, String);

/// Each listener and the admin server have an address of their own.
fn rule_own_addresses(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    for (i, listen) in config.listen.iter().enumerate() {
        let several = !matches!(listen.addr, ListenAddr::Tcp(addr) if addr.port() == 0);
        if several && config.listen[..i].iter().any(|earlier| earlier.addr == listen.addr) {
            refuse("listen", format!("listen: {} is named twice; leave one of the two", listen.addr));
        }
        let ListenAddr::Tcp(listen) = &listen.addr else { continue };
        let admin = config.admin.filter(|admin| {
            let either = admin.ip() == listen.ip() || admin.ip().is_unspecified() || listen.ip().is_unspecified();
            either && admin.port() == listen.port() && admin.port() != 0
        });
        if let Some(admin) = admin {
            let message =
                format!("admin: {admin} is taken by listen ({}): give one of them another port", origins["listen"]);
            refuse(later("admin", "listen", origins), message);
        }
    }
}

/// Nothing that is dialled is an address of our own.
fn rule_no_loop(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    let own = config
        .listen
        .iter()
        .filter_map(|listen| if let ListenAddr::Tcp(addr) = &listen.addr { Some(("listen", addr)) } else { None })
        .chain(config.admin.iter().map(|addr| ("admin", addr)));
    for (key, addr) in own {
        if let Some(sentinel) = config.sentinel.addrs.iter().find(|host| reaches(host, addr)) {
            let message = format!(
                "sentinels: {sentinel} is switchmaster's own {key} address, it would ask itself; name a Sentinel (port 26379 as a rule)"
            );
            refuse(later("sentinels", key, origins), message);
        }
        if let Some((from, to)) = config.sentinel.address_map.iter().find(|(_, to)| reaches(to, addr)) {
            let message = format!("address_map: {from} leads to {to}, switchmaster's own {key} address: a loop");
            refuse(later("address_map", key, origins), message);
        }
    }
}

fn rule_sentinels_can_be_dialled(config: &Config, _: &Origins, refuse: Refuse<'_>) {
    let unroutable = |host: &&HostPort| host.host == "0.0.0.0" || host.host == "::";
    if let Some(sentinel) = config.sentinel.addrs.iter().find(unroutable) {
        refuse("sentinels", format!("sentinels: {sentinel} is no address to dial; name the host"));
    }
}

fn rule_suspicion_outlasts_heartbeats(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    let (heartbeat, suspect) = (config.sentinel.heartbeat, config.sentinel.suspect_after);
    if suspect < heartbeat * 2 {
        let message = format!(
            "suspect_after is {}, less than two heartbeats of {} ({}): a single late answer would hold requests; make it {} or more",
            duration::exact(suspect),
            duration::exact(heartbeat),
            origins["heartbeat"],
            duration::exact(heartbeat * 2)
        );
        refuse(later("suspect_after", "heartbeat", origins), message);
    }
}

fn rule_memory_is_enough_for_one(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    let (each, total) = (config.failover.retain_bytes, config.failover.retain_total_bytes);
    if total < each {
        let message = format!(
            "retain_total is {}, less than the {} that retain_bytes gives one session ({}); raise it",
            size::exact(total),
            size::exact(each),
            origins["retain_bytes"]
        );
        refuse(later("retain_total", "retain_bytes", origins), message);
    }
}

/// The end of an outage's deadline is the same for all sessions.
fn rule_listeners_hold_no_longer(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    let HoldTimeout::Fixed(hold) = config.failover.hold_timeout else { return };
    if let Some(listen) = config.listen.iter().find(|listen| listen.hold_timeout.is_some_and(|own| own > hold)) {
        let message = format!(
            "listen: {listen} would hold longer than hold_timeout with {} ({}): it can only be shorter there",
            duration::exact(hold),
            origins["hold_timeout"]
        );
        refuse("listen", message);
    }
}

fn rule_planned_hold_can_end(config: &Config, origins: &Origins, refuse: Refuse<'_>) {
    let HoldTimeout::Fixed(hold) = config.failover.hold_timeout else { return };
    let planned = config.failover.planned_hold_limit;
    if planned > hold {
        let message = format!(
            "planned_hold_limit is {}, longer than hold_timeout with {} ({}): it could never be reached",
            duration::exact(planned),
            duration::exact(hold),
            origins["hold_timeout"]
        );
        refuse("planned_hold_limit", message);
    }
}

/// Where nobody has set it, the limit of planned holds follows a shorter `hold_timeout`.
fn limit_planned_hold(config: &mut Config, origins: &Origins) {
    if let HoldTimeout::Fixed(hold) = config.failover.hold_timeout
        && origins["planned_hold_limit"] == Origin::Default
    {
        config.failover.planned_hold_limit = config.failover.planned_hold_limit.min(hold);
    }
}

/// A user name in Laravel's variables belongs to the password there: it never goes with one of our own keys, and
/// without a password it counts for nothing, as in Laravel itself.
fn credentials(
    account: &mut Account,
    (username_key, password_key): (&'static str, &'static str),
    origins: &Origins,
    problems: &mut Vec<Problem>,
) -> Option<Credentials> {
    let (of_username, of_password) = (&origins[username_key], &origins[password_key]);
    if of_username.is_laravel() && !(account.password.is_some() && of_password.is_laravel()) {
        account.username = None;
    }
    if account.username.is_some() && account.password.is_none() {
        let message = format!("{username_key} is set, but {password_key} is not: set both or neither");
        problems.push(Problem::at(of_username, message));
    }
    let password = account.password.clone()?;
    Some(Credentials { username: account.username.clone().map(String::into_bytes), password })
}

/// Of two keys that contradict each other, the one that somebody wrote.
fn later<'a>(first: &'a str, second: &'a str, origins: &Origins) -> &'a str {
    if origins[first] == Origin::Default { second } else { first }
}
