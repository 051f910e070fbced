//! Error replies that speak of the node, not of the request: it is no master, not yet one, or busy.
//!
//! Takes an error's line with its dash, as it is on the wire, or without. By code where only the server says it, by the
//! whole text where applications and modules may use the code too.

/// The first word of an error: `READONLY`.
pub fn code(error: &(impl AsRef<[u8]> + ?Sized)) -> &[u8] {
    let error = error.as_ref();
    let error = error.strip_prefix(b"-").unwrap_or(error);
    error.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default()
}

/// The server's own words for "I am not, or not yet, the master"; anything else is the application's.
/// (Redis 7.0 server.c and blocked.c; Valkey keeps the texts.)
///
/// `of_exec` says that the reply is EXEC's, `after_a_refusal` that requests before it were refused so.
pub fn is_of_no_master(reply: &[u8], of_exec: bool, after_a_refusal: bool) -> bool {
    const REFUSALS: [&[u8]; 5] = [
        b"-READONLY You can't write against a read only replica.",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        b"-LOADING ",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed",
        b"-REDIRECT ",
    ];
    const ABORT: &[u8] = b"-EXECABORT Transaction discarded because of: ";
    if reply.first() != Some(&b'-') {
        return false;
    }
    if let Some(cause) = reply.strip_prefix(ABORT) {
        return is_passing(cause);
    }
    if of_exec && after_a_refusal {
        return reply.starts_with(b"-EXECABORT Transaction discarded because of previous errors");
    }
    REFUSALS.iter().any(|refusal| reply.starts_with(refusal))
}

/// -READONLY, -MASTERDOWN, -LOADING: what a node says that is not the master yet, to a request that no script made.
pub fn is_passing(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    matches!(code(error), b"READONLY" | b"MASTERDOWN" | b"LOADING")
}

/// -NOREPLICAS: fewer replicas are connected than `min-replicas-to-write` (Redis 7.0 server.c, processCommand).
pub fn is_too_few_replicas(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    code(error) == b"NOREPLICAS"
}

/// It lives and answers nothing else: it loads, a script runs, or its master is gone.
pub fn is_occupied(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    matches!(code(error), b"LOADING" | b"BUSY" | b"MASTERDOWN")
}

/// After it every other write would fail too.
pub fn is_of_every_write(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    is_passing(error)
        || is_too_few_replicas(error)
        || matches!(code(error), b"NOAUTH" | b"NOPERM" | b"MISCONF" | b"OOM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_word() {
        for error in ["-OOM command not allowed", "OOM", "-OOM\r\n", "OOM command"] {
            assert_eq!(code(error), b"OOM", "{error}");
        }
        assert_eq!(code(""), b"");
    }

    #[test]
    fn what_an_application_says_is_no_refusal_of_the_server() {
        for (reply, refused) in [
            (&b"-READONLY You can't write against a read only replica.\r\n"[..], true),
            (b"-READONLY my own error\r\n", false),
            (b"-LOADING Redis is loading the dataset in memory\r\n", true),
            (b"-EXECABORT Transaction discarded because of: READONLY You can't write\r\n", true),
            (b"-EXECABORT Transaction discarded because of: ERR no\r\n", false),
            (b"-EXECABORT Transaction discarded because of previous errors.\r\n", false),
            (b"+LOADING\r\n", false),
        ] {
            assert_eq!(is_of_no_master(reply, false, false), refused, "{}", reply.escape_ascii());
        }
        let abort = b"-EXECABORT Transaction discarded because of previous errors.\r\n";
        assert!(is_of_no_master(abort, true, true) && !is_of_no_master(abort, true, false));
    }
}
