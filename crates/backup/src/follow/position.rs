//! A place in a history of data, and whether a node can go on from there.
//!
//! Sans-IO: reads what INFO said. A node that would refuse is not asked: its answer would be a full synchronisation,
//! for which it forks.

use std::fmt;

use crate::node::info::{InfoRole, InfoText};

/// So many bytes of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The replication ID that names the history.
    pub replid: String,
    /// Bytes of it.
    pub offset: u64,
}

/// What a node has of the history, from the section `replication` of its INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// It is a replica; a master is never followed.
    pub replica: bool,
    /// `master_link_status` is up.
    pub link_up: bool,
    /// `master_replid`.
    pub replid: String,
    /// `master_repl_offset`.
    pub offset: u64,
    /// `master_replid2` and the last offset that belongs to it too; `None`: there is none.
    pub earlier: Option<Position>,
    /// The offset before its first byte, while it exists.
    pub begins: Option<u64>,
}

/// What a failover made of a place, as the new master tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing is known to have happened to it.
    Stays,
    /// It belongs to a history of another name now, which goes on.
    Renamed(Position),
    /// So many bytes before it were thrown away: no node goes on from there.
    Discarded(u64),
}

/// Whether a node can go on from a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has every byte from there on.
    Continues,
    /// Not yet: it has not come as far, or it is no replica with a link at the moment.
    NotYet(&'static str),
    /// Never again.
    Lost(&'static str),
}

impl Backlog {
    /// Reads the text of INFO; `None`: it is not one.
    pub fn parse(info: &str) -> Option<Backlog> {
        let info = InfoText::new(info);
        let earlier = match (info.earlier_replid(), info.number("second_repl_offset")) {
            // It is the first offset that belongs to the new history alone.
            (Some(replid), Some(next @ 1_i64..)) => {
                Some(Position { replid: replid.to_owned(), offset: next as u64 - 1 })
            }
            _ => None,
        };
        let first = info.number("repl_backlog_first_byte_offset").filter(|_| info.is_set("repl_backlog_active"));
        let role = info.role()?;
        Some(Backlog {
            replica: role != InfoRole::Master,
            link_up: role == InfoRole::Replica { link_up: true },
            replid: info.text("master_replid")?.to_owned(),
            offset: info.number::<i64>("master_repl_offset")?.try_into().ok()?,
            earlier,
            begins: first.filter(|first| *first > 0).map(|first: i64| first as u64 - 1),
        })
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { replid: self.replid.clone(), offset: self.offset }
    }

    /// What became of a place in the history. A master that was promoted knows both names of it, and where they part: a
    /// place before that is known to its replicas by the new name, also to those that got there later than we did.
    pub fn fate(&self, from: &Position) -> Fate {
        match &self.earlier {
            Some(earlier) if !self.replica && earlier.replid == from.replid && self.replid != from.replid => {
                match from.offset.checked_sub(earlier.offset) {
                    None | Some(0) => Fate::Renamed(Position { replid: self.replid.clone(), offset: from.offset }),
                    Some(bytes) => Fate::Discarded(bytes),
                }
            }
            _ => Fate::Stays,
        }
    }

    /// Whether it would answer `PSYNC` from there with +CONTINUE: the rules of masterTryPartialResync in replication.c.
    pub fn continues(&self, from: &Position) -> Verdict {
        if !self.replica {
            return Verdict::NotYet("is no replica");
        }
        if !self.link_up {
            return Verdict::NotYet("has lost the link to its master");
        }
        match &self.earlier {
            _ if from.replid == self.replid => {}
            Some(earlier) if from.replid == earlier.replid && from.offset <= earlier.offset => {}
            Some(earlier) if from.replid == earlier.replid => {
                return Verdict::Lost("follows a master that never had the last bytes");
            }
            _ => return Verdict::Lost("has another history"),
        }
        match self.begins {
            _ if from.offset > self.offset => Verdict::NotYet("has not come as far yet"),
            Some(begins) if begins <= from.offset => Verdict::Continues,
            _ => Verdict::Lost("does not have the bytes from there on any more (repl-backlog-size)"),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {} of {:.8}…", self.offset, self.replid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn at(replid: &str, offset: u64) -> Position {
        Position { replid: replid.into(), offset }
    }

    /// A replica that was at 500 of A when its master became that of B, and is now at 900.
    fn node() -> Backlog {
        let info = format!(
            "# Replication\r\nrole:slave\r\nmaster_link_status:up\r\nmaster_replid:{B}\r\nmaster_replid2:{A}\r\n\
             master_repl_offset:900\r\nsecond_repl_offset:501\r\nrepl_backlog_active:1\r\n\
             repl_backlog_first_byte_offset:301\r\nrepl_backlog_histlen:600\r\n"
        );
        Backlog::parse(&info).unwrap()
    }

    #[test]
    fn the_verdict_is_redis_s_own() {
        let node = node();
        assert_eq!(node.position(), at(B, 900));
        for (from, continues) in [(at(A, 500), true), (at(A, 300), true), (at(B, 600), true), (at(B, 900), true)] {
            assert_eq!(node.continues(&from) == Verdict::Continues, continues, "{from}");
        }
        for from in [at(A, 501), at(A, 299), at(B, 299), at("c", 600)] {
            assert!(matches!(node.continues(&from), Verdict::Lost(_)), "{from}");
        }
        assert!(matches!(node.continues(&at(B, 901)), Verdict::NotYet(_)));
    }

    #[test]
    fn a_master_and_a_replica_without_a_link_are_waited_for() {
        for (replica, link_up) in [(false, false), (true, false)] {
            let node = Backlog { replica, link_up, ..node() };
            assert!(matches!(node.continues(&at(B, 600)), Verdict::NotYet(_)));
        }
        let node = Backlog { begins: None, ..node() };
        assert!(matches!(node.continues(&at(B, 600)), Verdict::Lost(_)));
    }

    #[test]
    fn the_new_master_tells_what_became_of_a_place() {
        let master = Backlog { replica: false, ..node() };
        assert_eq!(master.fate(&at(A, 500)), Fate::Renamed(at(B, 500)));
        assert_eq!(master.fate(&at(A, 502)), Fate::Discarded(2));
        for place in [at(B, 700), at("c", 400)] {
            assert_eq!(master.fate(&place), Fate::Stays);
        }
        assert_eq!(node().fate(&at(A, 500)), Fate::Stays, "a replica has no say");
    }

    #[test]
    fn zeroes_are_no_history() {
        let zero = "0".repeat(40);
        let info = format!(
            "role:slave\nmaster_replid:{A}\nmaster_replid2:{zero}\nmaster_repl_offset:0\nsecond_repl_offset:-1\n"
        );
        let node = Backlog::parse(&info).unwrap();
        assert_eq!((node.earlier, node.begins), (None, None));
        assert_eq!(Backlog::parse("nonsense"), None);
    }
}
