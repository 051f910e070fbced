//! The name that somebody most likely meant, for messages about one that is unknown.

/// The name among `known` that `name` most likely meant, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let score = |candidate: &str| {
        let (a, b) = (plain(name), plain(candidate));
        let part = a.len() > 3 && b.contains(&a);
        let similar = strsim::normalized_damerau_levenshtein(&a, &b);
        if part { similar.max(0.6) } else { similar }
    };
    let scored = known.map(|candidate| (score(candidate), candidate));
    scored.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
