//! What the control plane can be ordered to do, and the path of the admin server that each order has.
//!
//! Plain data: who may give an order is `admin`'s business, carrying it out `sentinel`'s. The server and those who ask it
//! read and write the paths here, so that both know the same ones.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::duration;

/// The header that an order must carry; its value does not matter.
pub const HEADER: &str = "x-switchmaster";

/// The longest hold that can be asked for.
pub const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// An order to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Hold new requests for this long, or until released.
    Hold {
        /// At most [`LONGEST_HOLD`].
        for_: Duration,
    },
    /// End a hold.
    Release,
    /// Ask Sentinel for a planned failover, unless one is under way.
    Failover {
        /// Whatever the nodes are like.
        force: bool,
    },
    /// Read the configuration again.
    Reload,
}

/// An order, and where its answer goes: what was done, or why not, in plain words. An answer to a failover comes when a
/// Sentinel has begun it, or none has.
pub type ControlRequest = (Control, oneshot::Sender<Result<String, String>>);

impl Control {
    /// The order of a path below `/control/`. `Err` says what is wrong with it.
    pub fn parse(verb: &str, query: Option<&str>) -> Result<Control, String> {
        match verb {
            "hold" => {
                let text = query.unwrap_or("").split('&').find_map(|pair| pair.strip_prefix("for="));
                let text = text.ok_or("say for how long: /control/hold?for=10s")?;
                Ok(Control::Hold { for_: hold_length(text)? })
            }
            "release" => Ok(Control::Release),
            "reload" => Ok(Control::Reload),
            "failover" => match query {
                None | Some("") => Ok(Control::Failover { force: false }),
                Some("force") => Ok(Control::Failover { force: true }),
                Some(other) => Err(format!("a failover takes nothing or ?force, not {other:?}")),
            },
            _ => Err(format!("there is no command {verb:?}")),
        }
    }

    /// The path of the admin server at which it is given.
    pub fn path(&self) -> String {
        match self {
            Control::Hold { for_ } => format!("/control/hold?for={}ms", for_.as_millis()),
            Control::Release => "/control/release".into(),
            Control::Failover { force: false } => "/control/failover".into(),
            Control::Failover { force: true } => "/control/failover?force".into(),
            Control::Reload => "/control/reload".into(),
        }
    }
}

/// How long a hold lasts: a [`duration`] within the limits.
pub fn hold_length(text: &str) -> Result<Duration, String> {
    let length = duration::parse(text)?;
    if length.is_zero() || length > LONGEST_HOLD {
        return Err(format!("a hold lasts more than 0 and at most {} s", LONGEST_HOLD.as_secs()));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_for_how_long() {
        assert_eq!(Control::parse("hold", Some("for=10s")), Ok(Control::Hold { for_: Duration::from_secs(10) }));
        for wrong in [None, Some(""), Some("for="), Some("for=0s"), Some("for=10m"), Some("until=10s")] {
            assert!(Control::parse("hold", wrong).is_err(), "{wrong:?}");
        }
        assert!(Control::parse("explode", None).is_err());
        assert_eq!(hold_length("301s").unwrap_err(), "a hold lasts more than 0 and at most 300 s");
    }

    #[test]
    fn what_is_asked_for_is_what_was_meant() {
        let hold = Control::Hold { for_: Duration::from_millis(1500) };
        let failovers = [false, true].map(|force| Control::Failover { force });
        for order in failovers.into_iter().chain([hold, Control::Release, Control::Reload]) {
            let path = order.path();
            let (verb, query) = path.strip_prefix("/control/").unwrap().split_once('?').unzip();
            let verb = verb.unwrap_or_else(|| path.strip_prefix("/control/").unwrap());
            assert_eq!(Control::parse(verb, query), Ok(order));
        }
    }
}
