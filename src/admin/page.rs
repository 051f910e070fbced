//! The status page: one self-contained document that asks `/history.json` once a second.
//!
//! It is the same for everybody: what it shows it gets as data, and puts in as text. The policy that goes with it allows
//! its own script and its own styles, requests to where it came from, and nothing else.

/// The document.
pub const DOCUMENT: &str = include_str!("page.html");

/// Its Content-Security-Policy: the script by its hash, the styles inline (the bars of the time line have widths).
pub const POLICY: &str = "default-src 'none'; script-src 'sha256-fSmOL3WFN+tbf5Gbi0c9eMSThTOZOAtd5hkZR9zI8n0='; \
    style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let letter = |chunk: &[u8], at: usize| {
            let bits = chunk.iter().enumerate().fold(0u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
            if at <= chunk.len() { LETTERS[(bits >> (18 - 6 * at) & 63) as usize] as char } else { '=' }
        };
        bytes.chunks(3).flat_map(|chunk| (0..4).map(move |at| letter(chunk, at))).collect()
    }

    #[test]
    fn the_policy_allows_the_one_script_that_is_there() {
        let scripts: Vec<&str> = DOCUMENT.split("<script>").skip(1).collect();
        let [script] = scripts[..] else { panic!("{} scripts", scripts.len()) };
        let hash = base64(&Sha256::digest(script.split("</script>").next().unwrap())[..]);
        assert!(POLICY.contains(&format!("script-src 'sha256-{hash}';")), "the script's hash is {hash}");
    }

    #[test]
    fn it_asks_nobody_else_and_makes_no_markup_of_data() {
        for outside in ["http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            let found = DOCUMENT.replace("http://www.w3.org/2000/svg", "");
            assert!(!found.contains(outside), "{outside}");
        }
    }
}
