//! CLIENT TRACKING, as all requests since it was switched on have made it.
//!
//! Sent in their order on a fresh connection, what is kept gives what the server has now: prefixes add up, of the
//! options and the redirection those of the last request count (Redis 7.0 tracking.c, enableTracking).

use crate::resp::request::Args;

/// Bytes of requests that are kept for a move.
const MOST_BYTES: usize = 64 * 1024;

/// Switched on.
#[derive(Debug, Default)]
pub(super) struct Tracking {
    requests: Vec<Request>,
    /// The CLIENT CACHING that is for the next request.
    pub(super) caching: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Request {
    bytes: Vec<u8>,
    has_prefixes: bool,
    redirects: bool,
}

impl Tracking {
    /// After the server has accepted this CLIENT TRACKING; `None` if it switches off.
    pub(super) fn and_then(mut self, request: &[u8]) -> Option<Tracking> {
        let mut args = Args::new(request).skip(2);
        if !args.next()?.eq_ignore_ascii_case(b"ON") {
            return None;
        }
        let (mut broadcasts, mut has_prefixes, mut redirects) = (false, false, false);
        while let Some(option) = args.next() {
            match option.to_ascii_uppercase().as_slice() {
                b"BCAST" => broadcasts = true,
                b"PREFIX" => has_prefixes = args.next().is_some(),
                b"REDIRECT" => redirects = args.next().is_some(),
                _ => {}
            }
        }
        // What is left has nothing but options, which this one replaces.
        self.requests.retain(|earlier| broadcasts && earlier.has_prefixes);
        self.requests.push(Request { bytes: request.to_vec(), has_prefixes, redirects });
        Some(self)
    }

    /// Memory held for it.
    pub(super) fn held_bytes(&self) -> usize {
        self.caching.as_ref().map_or(0, Vec::len)
            + self.requests.iter().map(|request| request.bytes.len()).sum::<usize>()
    }

    /// It is on, and nobody knows how.
    pub(super) fn forget(&mut self) {
        *self = Tracking::default();
    }

    /// Why it cannot be restored elsewhere.
    pub(super) fn untracked(&self) -> Option<&'static str> {
        let bytes: usize = self.requests.iter().map(|request| request.bytes.len()).sum();
        if self.requests.last().is_some_and(|last| last.redirects) {
            return Some("invalidations redirected to another connection");
        }
        (bytes > MOST_BYTES).then_some("too many prefixes tracked")
    }

    /// What restores it.
    pub(super) fn requests(&self) -> impl Iterator<Item = &[u8]> {
        self.requests.iter().map(|request| request.bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::encode;

    fn after(requests: &[&str]) -> Option<Tracking> {
        let mut tracking = Some(Tracking::default());
        for request in requests {
            let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let request = encode(&[&[&b"CLIENT"[..], b"TRACKING"], &words[..]].concat());
            tracking = tracking.unwrap_or_default().and_then(&request);
        }
        tracking
    }

    #[test]
    fn prefixes_add_up_and_options_are_the_last() {
        for (requests, kept) in [
            (&["ON", "ON OPTIN"][..], 1),
            (&["ON BCAST PREFIX a", "on bcast prefix b noloop", "ON BCAST"], 3),
            (&["ON BCAST PREFIX a", "ON BCAST", "ON BCAST NOLOOP"], 2),
            (&["ON BCAST PREFIX a", "OFF BCAST", "ON OPTOUT"], 1),
        ] {
            let tracking = after(requests).unwrap();
            assert_eq!(tracking.requests().count(), kept, "{requests:?}");
            assert_eq!(tracking.untracked(), None, "{requests:?}");
        }
        assert!(after(&["ON", "OFF"]).is_none());
    }

    #[test]
    fn a_redirection_lasts_until_it_is_replaced() {
        assert!(after(&["ON REDIRECT 7"]).unwrap().untracked().is_some());
        for not in [&["ON BCAST PREFIX redirect"][..], &["ON REDIRECT 7", "ON"], &["ON REDIRECT 7", "OFF", "ON"]] {
            assert_eq!(after(not).unwrap().untracked(), None, "{not:?}");
        }
        let many = format!("ON BCAST PREFIX {}", "x".repeat(MOST_BYTES));
        assert!(after(&[&many]).unwrap().untracked().is_some());
    }
}
