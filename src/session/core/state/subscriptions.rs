//! What a client is subscribed to, by the confirmations that it has been given.
//!
//! The names make a move possible. Where they are too many, or no memory is left for them, they are only counted: an
//! UNSUBSCRIBE without names is confirmed once for each.

use std::collections::BTreeSet;

/// Subscriptions of one connection whose names are kept.
const MOST_NAMES: usize = 10_000;
/// What a set needs for a name besides its bytes, about.
const NAME_BYTES: usize = 48;
const SUBSCRIBE: [&[u8]; 3] = [b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"];

/// Channels, patterns and shard channels.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    names: [BTreeSet<Vec<u8>>; 3],
    /// Bytes of the names, and what a set needs for each.
    bytes: usize,
    /// How many of each kind, once the names are not kept any more.
    counted: Option<[usize; 3]>,
}

impl Subscriptions {
    /// Channels (0), patterns (1) or shard channels (2).
    pub(super) fn count(&self, kind: usize) -> usize {
        self.counted.map_or(self.names[kind].len(), |counted| counted[kind])
    }

    /// All kinds together.
    pub(super) fn total(&self) -> usize {
        (0..3).map(|kind| self.count(kind)).sum()
    }

    /// Memory held for the names.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether they could be made elsewhere.
    pub(super) fn are_kept(&self) -> bool {
        self.counted.is_none()
    }

    /// From now on they are only counted.
    pub(super) fn forget_names(&mut self) {
        self.counted.get_or_insert([0, 1, 2].map(|kind| self.names[kind].len()));
        (self.names, self.bytes) = (Default::default(), 0);
    }

    /// The client has been given the confirmation `word name :count`. The server counts channels and patterns together,
    /// and shard channels by themselves (Redis 7.0 pubsub.c, clientSubscriptionsCount).
    pub(super) fn confirmed(&mut self, word: &[u8], name: &[u8], count: Option<usize>) {
        let (kind, subscribed) = match word {
            b"subscribe" => (0, true),
            b"psubscribe" => (1, true),
            b"ssubscribe" => (2, true),
            b"unsubscribe" => (0, false),
            b"punsubscribe" => (1, false),
            _ => (2, false),
        };
        if let Some(counted) = &mut self.counted {
            let others = if kind == 2 { 0 } else { counted[1 - kind] };
            counted[kind] = count.map_or(counted[kind], |count| count.saturating_sub(others));
            return;
        }
        let bytes = name.len() + NAME_BYTES;
        match subscribed {
            true => self.bytes += if self.names[kind].insert(name.to_vec()) { bytes } else { 0 },
            false => self.bytes -= if self.names[kind].remove(name) { bytes } else { 0 },
        }
        if self.total() > MOST_NAMES {
            self.forget_names();
        }
    }

    /// The requests that make them, each with the number of its confirmations.
    pub(super) fn requests(&self) -> impl Iterator<Item = (Vec<&[u8]>, usize)> {
        let some = SUBSCRIBE.into_iter().zip(&self.names).filter(|(_, names)| !names.is_empty());
        some.map(|(command, names)| {
            (std::iter::once(command).chain(names.iter().map(Vec::as_slice)).collect(), names.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_alike_with_and_without_their_names() {
        let (mut kept, mut counted) = (Subscriptions::default(), Subscriptions::default());
        let script: [(&[u8], &[u8], usize); 10] = [
            (b"subscribe", b"a", 1),
            (b"subscribe", b"b", 2),
            (b"psubscribe", b"p*", 3),
            (b"subscribe", b"a", 3),
            (b"ssubscribe", b"s", 1),
            (b"unsubscribe", b"b", 2),
            (b"punsubscribe", b"none", 2),
            (b"psubscribe", b"q*", 3),
            (b"sunsubscribe", b"s", 0),
            (b"unsubscribe", b"a", 2),
        ];
        for (at, (word, name, count)) in script.into_iter().enumerate() {
            if at == 3 {
                counted.forget_names();
            }
            kept.confirmed(word, name, Some(count));
            counted.confirmed(word, name, Some(count));
            assert_eq!([0, 1, 2].map(|kind| kept.count(kind)), [0, 1, 2].map(|kind| counted.count(kind)), "after {at}");
        }
        assert!(kept.are_kept() && !counted.are_kept());
        assert_eq!((kept.requests().count(), counted.requests().count(), counted.held_bytes()), (1, 0, 0));
        assert_eq!(kept.held_bytes(), 2 * (NAME_BYTES + 2));
    }

    #[test]
    fn of_too_many_no_name_is_kept() {
        let mut all = Subscriptions::default();
        for number in 1..=MOST_NAMES + 5 {
            all.confirmed(b"subscribe", number.to_string().as_bytes(), Some(number));
        }
        assert_eq!((all.total(), all.held_bytes(), all.are_kept()), (MOST_NAMES + 5, 0, false));
    }
}
