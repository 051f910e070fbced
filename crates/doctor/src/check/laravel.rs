//! Checks of a Laravel application: whether it comes to us, and what its time-outs do to a hold.

use super::Severity::{Critical, Hint, Warning};
use super::{Check, Seen, seen};
use crate::facts::{Application, SetUp};

pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "laravel-not-here",
        severity: Critical,
        means: "the application goes around switchmaster: a failover reaches it unprotected",
        look: not_here,
    },
    Check {
        id: "laravel-refused",
        severity: Critical,
        means: "nobody answers where the application connects",
        look: refused,
    },
    Check {
        id: "laravel-sentinel-package",
        severity: Warning,
        means: "a Sentinel package or mode finds the master by itself, past switchmaster",
        look: package,
    },
    Check {
        id: "laravel-retry-after",
        severity: Warning,
        means: "a job whose pop is held longer than retry_after - timeout is taken up a second time while it runs",
        look: retry_after,
    },
    Check {
        id: "laravel-read-timeout",
        severity: Warning,
        means: "the client gives up before the hold ends, and what it asked may still run: an error, or twice with a retry",
        look: read_timeout,
    },
    Check {
        id: "laravel-command-retries",
        severity: Warning,
        means: "the client sends again what may have run: queue pushes and INCR run twice, a ZPOPMIN is lost in silence",
        look: retries,
    },
    Check {
        id: "laravel-web-timeout",
        severity: Warning,
        means: "the web server or PHP ends the request before the hold does: an error page at every failover of that length",
        look: web,
    },
    Check {
        id: "laravel-reverb-socket",
        severity: Hint,
        means: "Reverb builds redis://HOST:PORT, which leads nowhere with a Unix socket",
        look: reverb,
    },
];

fn given(facts: &SetUp, look: impl Fn(&Application) -> Option<(String, String, String)>) -> Vec<Seen> {
    let found = facts.application.as_ref().and_then(look);
    found.map(|(place, what, mend)| seen(place, what, mend)).into_iter().collect()
}

fn env(application: &Application) -> String {
    format!("{}/.env", application.path)
}

fn not_here(facts: &SetUp) -> Vec<Seen> {
    given(facts, |application| {
        let mend = "REDIS_HOST=127.0.0.1 and REDIS_PORT=6379 (switchmaster's `listen`), no REDIS_URL; then php artisan config:clear";
        let what = format!("it leads to {}, which is no address of switchmaster", application.target);
        (!application.is_ours).then(|| (env(application), what, mend.to_owned()))
    })
}

fn refused(facts: &SetUp) -> Vec<Seen> {
    given(facts, |application| {
        let why = application.refused.as_ref()?;
        let mend = "systemctl start switchmaster, or the right address in the .env";
        Some((env(application), format!("{}: {why}", application.target), mend.to_owned()))
    })
}

fn package(facts: &SetUp) -> Vec<Seen> {
    given(facts, |application| {
        let mend = "composer remove it, REDIS_CLIENT back to phpredis or predis, drivers back to redis; 'replication' out of \
                    config/database.php";
        let found = application.packages.join(", ");
        (!found.is_empty()).then(|| (application.path.clone(), found, mend.to_owned()))
    })
}

impl Application {
    /// The smallest and the largest that was found of a setting, each with its place.
    fn range(&self, wanted: &str) -> Option<[(f64, &str); 2]> {
        let found =
            || self.numbers.iter().filter(|(name, ..)| *name == wanted).map(|(_, number, at)| (*number, at.as_str()));
        let by_number = |one: &(f64, &str), other: &(f64, &str)| one.0.total_cmp(&other.0);
        Some([found().min_by(by_number)?, found().max_by(by_number)?])
    }
}

fn retry_after(facts: &SetUp) -> Vec<Seen> {
    let hold = facts.longest_hold().as_secs_f64();
    given(facts, |application| {
        let (retry_after, place) =
            application.range("retry_after").map_or((90.0, "Laravel's default"), |[least, _]| least);
        // That of queue:work, which is on a command line that nobody can read.
        let (timeout, _) = application.range("timeout of horizon").map_or((60.0, ""), |[_, most]| most);
        let room = retry_after - timeout;
        let what =
            format!("retry_after {retry_after} s - timeout {timeout} s leaves {room} s; a hold lasts up to {hold} s");
        let mend = format!(
            "'retry_after' => {}, or a shorter --timeout of queue:work, or hold_timeout",
            (timeout + hold + 10.0) as u64
        );
        (room <= hold).then(|| (place.to_owned(), what, mend))
    })
}

/// Time-outs that end a request before the hold does.
fn shorter_than_hold(facts: &SetUp, names: [&str; 2], mend: impl Fn(&str, u64) -> String) -> Vec<Seen> {
    let hold = facts.longest_hold().as_secs_f64();
    let look = |name: &str| {
        given(facts, |application| {
            let [(seconds, place), _] = application.range(name)?;
            let what = format!("{name} {seconds} s, and a hold lasts up to {hold} s");
            (seconds > 0.0 && seconds <= hold).then(|| (place.to_owned(), what, mend(name, hold as u64 + 5)))
        })
    };
    names.into_iter().flat_map(look).collect()
}

fn read_timeout(facts: &SetUp) -> Vec<Seen> {
    shorter_than_hold(facts, ["read_timeout", "read_write_timeout"], |name, long| format!("'{name}' => {long}"))
}

fn retries(facts: &SetUp) -> Vec<Seen> {
    let mut found = Vec::new();
    for name in ["command_retries", "retry"] {
        found.extend(given(facts, |application| {
            let (times, place) = application.range(name).map(|[_, most]| most).filter(|(times, _)| *times > 0.0)?;
            Some((
                place.to_owned(),
                format!("{name} {times}"),
                format!("'{name}' => 0: switchmaster sends again what may be"),
            ))
        }));
    }
    found
}

fn web(facts: &SetUp) -> Vec<Seen> {
    let names = ["request_terminate_timeout", "fastcgi_read_timeout"];
    shorter_than_hold(facts, names, |name, long| format!("{name} {long}s"))
}

fn reverb(facts: &SetUp) -> Vec<Seen> {
    given(facts, |application| {
        let uses = application.has_reverb && application.target.starts_with('/');
        uses.then(|| {
            (env(application), application.target.clone(), "REDIS_HOST=127.0.0.1 and a TCP listener".to_owned())
        })
    })
}
