//! What a server says in the shape of a push or of a flat array: its elements, and whether it is an announcement.
//!
//! Reads frames that the scanner has found; of a part it gives what is wholly there.

/// The first word of a push, or of what RESP2 sends to subscribers in the shape of a reply; `None` for a reply.
pub fn announcement(frame: &[u8]) -> Option<&[u8]> {
    let word = element(frame, 0)?;
    let is_push = frame.first() == Some(&b'>');
    let is_pubsub = matches!(word, b"message" | b"pmessage" | b"smessage") || word.ends_with(b"subscribe");
    (is_push || is_pubsub).then_some(word)
}

/// The bulk string at `index` of a flat array or push; also of its whole beginning, if that is all there is.
pub fn element(frame: &[u8], index: usize) -> Option<&[u8]> {
    let mut rest = frame.strip_prefix(b"*").or_else(|| frame.strip_prefix(b">"))?;
    rest = &rest[rest.iter().position(|byte| *byte == b'\n')? + 1..];
    for at in 0.. {
        let end = rest.iter().position(|byte| *byte == b'\r')?;
        let length: usize = std::str::from_utf8(rest.get(1..end)?).ok()?.parse().ok()?;
        if rest.first() != Some(&b'$') {
            return None;
        }
        let body = rest.get(end + 2..)?;
        if at == index {
            return body.get(..length);
        }
        rest = body.get(length + 2..)?;
    }
    None
}
