//! What a node says of passwords: that it needs none, that ours is wrong, that we may not.
//!
//! Takes an error's line with its dash, as it is on the wire, or without. The password itself is never here.

use super::refusal::code;

/// The answer to an AUTH that was not needed: the node has no password at all and takes everybody. Not an error to us:
/// the replicas of many a set-up have none. (Redis 7.0 acl.c, authCommand.)
pub fn is_not_needed(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    let error = error.as_ref();
    let error = error.strip_prefix(b"-").unwrap_or(error);
    let error = error.strip_prefix(b"ERR ").unwrap_or(error);
    error.starts_with(b"AUTH <password> called without any password configured")
}

/// It wants a password, ours is wrong, or its ACL forbids us: asking again changes nothing.
/// Before Redis 6 a wrong password had no code of its own, nor had one that is not needed.
pub fn is_refused(error: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    let error = error.as_ref();
    let text = error.strip_prefix(b"-").unwrap_or(error);
    matches!(code(error), b"NOAUTH" | b"WRONGPASS" | b"NOPERM")
        || [&b"ERR invalid password"[..], b"ERR Client sent AUTH"].iter().any(|old| text.starts_with(old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_is_not_needed_is_no_refusal() {
        let text = "AUTH <password> called without any password configured for the default user. Are you sure your \
                    configuration is correct?";
        for error in [text.to_owned(), format!("ERR {text}"), format!("-ERR {text}\r\n")] {
            assert!(is_not_needed(&error) && !is_refused(&error), "{error}");
        }
    }

    #[test]
    fn refusals_are_known_by_code_and_before_redis_6_by_text() {
        for error in [
            "-NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "-NOPERM this user has no permissions to run the 'info' command",
            "ERR invalid password",
            "-ERR Client sent AUTH, but no password is set",
        ] {
            assert!(is_refused(error) && !is_not_needed(error), "{error}");
        }
        assert!(!is_refused("ERR unknown command 'AUTH'"));
    }
}
