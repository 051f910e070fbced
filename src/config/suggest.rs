//! What an unknown name most likely is: a known one that was misspelt, or one of a newer version.

/// What somebody wrote who wrote a name that is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown<'a> {
    /// This one, misspelt.
    Misspelt(&'a str),
    /// Something else, perhaps of a newer version; the name that is nearest, if any is near.
    Foreign(Option<&'a str>),
}

/// As near as this, a name of known words is a misspelt one.
const MISSPELT: f64 = 0.75;
/// As near as this, it is worth a question.
const NEAR: f64 = 0.6;

/// Judges `name` among the `known` ones. It is misspelt where it is near a known name and brings no new word: what a newer
/// version adds has a word of its own, as a rule.
pub(super) fn judge<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Unknown<'a> {
    let name = plain(name);
    let scored = known.clone().map(|candidate| (score(&name, &plain(candidate)), candidate));
    let Some((score, near)) = scored.filter(|(score, _)| *score >= NEAR).max_by(|a, b| a.0.total_cmp(&b.0)) else {
        return Unknown::Foreign(None);
    };
    let words: Vec<String> = known.flat_map(|known| words(&plain(known))).collect();
    let is_known = |word: &String| words.iter().any(|known| is_same_word(word, known));
    let begins = is_part(&name, &plain(near)) || name.starts_with(&plain(near));
    match (score >= MISSPELT || begins) && self::words(&name).iter().all(is_known) {
        true => Unknown::Misspelt(near),
        false => Unknown::Foreign(Some(near)),
    }
}

/// What is wrong with an unknown `name` that asks for TLS, which no warning may pass over; nothing where it is off.
pub(super) fn refuse_tls(name: &str, value: &str) -> Option<String> {
    let asks = plain(name).split('_').any(|word| word == "tls") && value != "off";
    asks.then(|| {
        format!("unknown {name}: this version has no TLS, and would send in plain text what is to be encrypted")
    })
}

fn score(name: &str, candidate: &str) -> f64 {
    let similar = strsim::normalized_damerau_levenshtein(name, candidate);
    if name.len() > 3 && is_part(name, candidate) { similar.max(NEAR) } else { similar }
}

/// The beginning of the whole, or of one of its words and what follows.
fn is_part(name: &str, whole: &str) -> bool {
    whole.match_indices(name).any(|(at, _)| whole[..at].is_empty() || whole[..at].ends_with('_'))
}

fn plain(text: &str) -> String {
    text.to_ascii_lowercase().replace('-', "_")
}

fn words(plain: &str) -> Vec<String> {
    plain.split('_').map(str::to_owned).collect()
}

/// The same but for a letter or two, or a shorter form.
fn is_same_word(word: &str, known: &str) -> bool {
    let is_short_form = word.len().min(known.len()) > 2 && (known.starts_with(word) || word.starts_with(known));
    let distance = strsim::damerau_levenshtein(word, known);
    is_short_form || distance <= if word.len() < 6 { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::super::KEYS;
    use super::*;

    fn judge(name: &str) -> Unknown<'static> {
        super::judge(name, KEYS.iter().map(|key| key.name))
    }

    #[test]
    fn a_misspelt_key_is_known_by_its_nearest() {
        for (name, meant) in [
            ("max_cilents", "max_clients"),
            ("lisen", "listen"),
            ("listeners", "listen"),
            ("hold-timeout", "hold_timeout"),
            ("holdtimeout", "hold_timeout"),
            ("hold_time", "hold_timeout"),
            ("sentinel", "sentinels"),
            ("retain_byte", "retain_bytes"),
            ("redis_pasword", "redis_password"),
            ("master", "master_name"),
            ("log_levle", "log_level"),
            ("state_directory", "state_dir"),
        ] {
            assert_eq!(judge(name), Unknown::Misspelt(meant), "{name}");
        }
        let each = KEYS.iter().map(|key| key.name).filter(|name| name.len() > 4);
        for name in each {
            let shorter = &name[..name.len() - 1];
            assert!(matches!(judge(shorter), Unknown::Misspelt(_)), "{shorter}");
        }
    }

    #[test]
    fn a_key_with_a_word_of_its_own_is_of_a_newer_version() {
        for name in [
            "colour",
            "tls",
            "tls_ca_file",
            "sentinel_tls",
            "sentinel_tls_ca_file",
            "pool",
            "pool_auth_ttl",
            "durability",
            "durability_timeout",
            "crash_verdict",
            "max_lag",
            "upstream",
            "retain_disk",
            "sentinel_timeout",
            "shadow_listen",
        ] {
            assert!(matches!(judge(name), Unknown::Foreign(_)), "{name}: {:?}", judge(name));
        }
    }
}
