//! What a store answered when it did not do what it was asked, in words that say where and what to do.

use object_store::Error;

/// `PLACE: doing NAME: what is wrong: what to do`.
pub(super) fn text(place: &str, doing: &str, name: &str, error: &Error) -> String {
    let (status, code) = (status(error), code(error));
    let why = match (code.as_deref(), status) {
        (Some("SignatureDoesNotMatch"), _) => {
            "the signature does not match: check backup_s3_secret_access_key (and backup_s3_region)".to_owned()
        }
        (Some("InvalidAccessKeyId" | "NotSignedUp"), _) => {
            "the access key is unknown: check backup_s3_access_key_id".to_owned()
        }
        (Some("RequestTimeTooSkewed"), _) => {
            "this host's clock is too far from the service's: set the clock (timedatectl)".to_owned()
        }
        (Some("NoSuchBucket"), _) => {
            "there is no such bucket: create it, or check backup_store, backup_s3_endpoint and backup_s3_path_style"
                .to_owned()
        }
        (Some("AuthorizationHeaderMalformed" | "PermanentRedirect"), _) => {
            format!("the region is wrong: check backup_s3_region ({})", last(error))
        }
        (Some("AccessDenied"), _) | (None, Some(401 | 403)) => {
            "access denied: the key needs to list, get, put and delete in this bucket".to_owned()
        }
        (Some("NotImplemented"), _) | (None, Some(501)) => "the service does not know this operation".to_owned(),
        (code, Some(status)) => {
            format!("the service answered {status}{}", code.map(|code| format!(" {code}")).unwrap_or_default())
        }
        (_, None) => last(error),
    };
    match name {
        "" => format!("{place}: {doing}: {why}"),
        name => format!("{place}: {doing} {name}: {why}"),
    }
}

/// Whether there is no such object, in a bucket that is there.
pub(super) fn is_missing(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) && code(error).as_deref() != Some("NoSuchBucket")
}

/// Whether conditional writes are unknown there: the service says so or does not take the header, or the file system
/// has no hard links (EPERM, EOPNOTSUPP), by which a folder does them.
pub(super) fn is_unsupported(error: &Error) -> bool {
    if matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. }) {
        return true;
    }
    match (status(error), code(error).as_deref()) {
        (Some(405 | 501), _) | (_, Some("NotImplemented")) => true,
        (Some(400), code) => matches!(code, None | Some("InvalidRequest" | "InvalidArgument")),
        (Some(_), _) => false,
        (None, _) => chain(error).iter().any(|text| text.ends_with("(os error 1)") || text.ends_with("(os error 95)")),
    }
}

/// Whether it is about one file of a folder, while others may be read: what is there may not be read by this user (EPERM,
/// EACCES), is none that can be (ENXIO, EISDIR, ELOOP), or the disk does not give it back (EIO).
pub(super) fn is_of_one_file(error: &Error) -> bool {
    const NUMBERS: [u32; 6] = [1, 5, 6, 13, 21, 40];
    let ends = |text: &String| NUMBERS.iter().any(|number| text.ends_with(&format!("(os error {number})")));
    status(error).is_none() && chain(error).iter().any(ends)
}

/// Every message of the chain, the outermost first.
fn chain(error: &Error) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        texts.push(error.to_string());
        next = error.source();
    }
    texts
}

/// The innermost cause.
fn last(error: &Error) -> String {
    chain(error).pop().unwrap_or_default().replace('\n', " ")
}

/// `<Code>` of an S3 error body (the error type keeps the body as text).
fn code(error: &Error) -> Option<String> {
    let text = chain(error).into_iter().find(|text| text.contains("<Code>"))?;
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0.to_owned())
}

/// The HTTP status; the error type gives it only in its words.
fn status(error: &Error) -> Option<u16> {
    for text in chain(error) {
        if let Some((_, rest)) = text.split_once("status code: ") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(status) = digits.parse() {
                return Some(status);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the library gives it: the status and the body stand in the words of the cause.
    fn answer(status: &str, code: &str) -> Error {
        let source = format!("Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>");
        Error::Generic { store: "S3", source: source.into() }
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        for (status, code, told) in [
            ("403 Forbidden", "SignatureDoesNotMatch", "check backup_s3_secret_access_key"),
            ("403 Forbidden", "InvalidAccessKeyId", "check backup_s3_access_key_id"),
            ("403 Forbidden", "RequestTimeTooSkewed", "set the clock"),
            ("403 Forbidden", "AccessDenied", "the key needs to list, get, put and delete"),
            ("404 Not Found", "NoSuchBucket", "create it"),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "check backup_s3_region"),
            ("503 Service Unavailable", "SlowDown", "answered 503 SlowDown"),
        ] {
            let text = text("s3://b at https://x", "writing", "m/o", &answer(status, code));
            assert!(text.starts_with("s3://b at https://x: writing m/o: ") && text.contains(told), "{text}");
        }
    }

    #[test]
    fn a_refused_condition_is_told_from_a_refused_key() {
        for (status, code, expected) in [
            ("501 Not Implemented", "NotImplemented", true),
            ("400 Bad Request", "InvalidArgument", true),
            ("400 Bad Request", "AuthorizationHeaderMalformed", false),
            ("403 Forbidden", "AccessDenied", false),
            ("500 Internal Server Error", "InternalError", false),
        ] {
            assert_eq!(is_unsupported(&answer(status, code)), expected, "{code}");
        }
        let links = |number: i32| {
            let source = Box::new(std::io::Error::from_raw_os_error(number));
            is_unsupported(&Error::Generic { store: "LocalFileSystem", source })
        };
        assert!(links(1) && links(95) && !links(13) && !links(28));
    }
}
