//! Glob-style patterns as KEYS and SCAN read them (Redis util.c, `stringmatchlen`): `*`, `?`, `[a-c]`, `[^a]`, `\x`.

/// Whether `key` matches `pattern`, byte by byte. Takes time in the product of their lengths at most.
pub fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut pattern_at, mut key_at) = (0, 0);
    // Behind the last star, and the first byte of the key that it does not take.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(pattern_at) == Some(&b'*') {
            pattern_at += 1;
            star = Some((pattern_at, key_at));
            continue;
        }
        let step = match key.get(key_at) {
            Some(byte) => one(&pattern[pattern_at..], *byte),
            None if pattern_at == pattern.len() => return true,
            None => return false,
        };
        match (step, &mut star) {
            (Some(used), _) => {
                pattern_at += used;
                key_at += 1;
            }
            (None, Some((behind, taken))) => {
                *taken += 1;
                (pattern_at, key_at) = (*behind, *taken);
            }
            (None, None) => return false,
        }
    }
}

/// How much of the pattern's beginning, which is no star, matches this byte; `None` if it does not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', set @ ..] => {
            let (found, used) = in_set(set, byte);
            found.then_some(1 + used)
        }
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

/// Whether the set behind a `[` has this byte, and its length with the `]`, which may be missing at the end.
fn in_set(set: &[u8], byte: u8) -> (bool, usize) {
    let inverted = set.first() == Some(&b'^');
    let mut at = usize::from(inverted);
    let mut found = false;
    loop {
        match &set[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [low, b'-', high, ..] => {
                found |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
    (found != inverted, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_redis() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("user:*", &["user:", "user:1"], &["user", "auser:1"]),
            ("*", &["", "x"], &[]),
            ("h?llo", &["hello", "hallo"], &["hllo", "heello"]),
            ("h[ae]llo", &["hello", "hallo"], &["hillo"]),
            ("h[^e]llo", &["hallo"], &["hello"]),
            ("h[a-c]llo", &["hbllo"], &["hdllo"]),
            ("h[c-a]llo", &["hbllo"], &["hdllo"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("a[\\]]b", &["a]b"], &["a[b"]),
            ("*a*b", &["ab", "xaxb", "aab"], &["ba", "abx"]),
            ("a[", &[], &["a", "a["]),
            ("", &[""], &["x"]),
            ("ab\\", &["ab\\"], &["ab"]),
        ];
        for (pattern, good, bad) in cases {
            for key in *good {
                assert!(matches(pattern.as_bytes(), key.as_bytes()), "{pattern} {key}");
            }
            for key in *bad {
                assert!(!matches(pattern.as_bytes(), key.as_bytes()), "{pattern} {key}");
            }
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let (pattern, key) = ("a*".repeat(50) + "b", "a".repeat(5000));
        assert!(!matches(pattern.as_bytes(), key.as_bytes()));
    }
}
