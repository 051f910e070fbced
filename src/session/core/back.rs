//! The backend's half: what is on its way there, what its replies are a part of, and what it is good for afterwards.
//!
//! All that is true of one connection alone is in [`Up`], and goes with it: nothing of an old backend can be mistaken
//! for the new one's.

use std::time::Instant;

use super::outbox::Outbox;
use super::turn::Parting;
use crate::resp::scanner::ReplyScanner;

/// The backend of one session.
#[derive(Debug, Default)]
pub(super) struct Back {
    pub(super) link: Link,
    /// For the backend, or for the next one.
    pub(super) out: Outbox,
    /// `out` holds requests that are sent again: they wait for an open gate as new ones do.
    pub(super) is_resending: bool,
    /// Nothing was written on the present backend since the session moved: WAIT has nothing to wait for.
    pub(super) wrote_nothing: bool,
    pub(super) reuse: Reuse,
}

/// Whether there is a connection.
#[derive(Debug, Default)]
pub(super) enum Link {
    /// None yet, or given up: made when there is something to send.
    #[default]
    None,
    /// The driver makes one.
    Attaching,
    Up(Up),
    /// The node closed it: what that means is not known yet. What was true of it still is.
    Lost(Box<Lost>),
}

/// A connection that is at its end.
#[derive(Debug)]
pub(super) struct Lost {
    up: Up,
    at: Instant,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) scanner: ReplyScanner,
    /// Bytes of a reply that must be whole before it is judged; all scanned.
    pub(super) tail: Box<[u8]>,
    pub(super) download: Download,
    pub(super) doubt: Option<Box<Doubt>>,
    pub(super) writing: Writing,
    pub(super) standing: Standing,
}

/// What of the server's bytes was delivered last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Download {
    /// Whole messages.
    #[default]
    Between,
    /// Part of the reply to the front request.
    PartOfReply,
    /// Part of something that the server said unasked.
    PartOfUnasked,
}

/// The node refused as a demoted one would: nothing more is sent until that is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) since: Instant,
    pub(super) why: Refusal,
}

/// What it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// That it is not the master, or not yet.
    NotMaster,
    /// That it has too few replicas, just after a switch.
    TooFewReplicas,
}

/// Our side of the connection. Open → UnblockAsked → FinToUnblock while the proxy drains; to FinPassedOn when the client
/// has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Writing {
    #[default]
    Open,
    /// The server was asked to let go of what blocks here.
    UnblockAsked,
    /// A FIN of ours was sent, for the same.
    FinToUnblock,
    /// The client's FIN was passed on.
    FinPassedOn,
}

impl Writing {
    /// The server was sent a FIN, whoever's it is.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Writing::FinToUnblock | Writing::FinPassedOn)
    }
}

/// How the connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Made for this session, and restored.
    Restored,
    /// Ready before it was asked for, and what the server thought of it then may be true no longer: a RESET goes in front
    /// of the first request.
    BeforeReset,
}

/// What can become of the connection, or of another in its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reuse {
    /// A RESET makes it as good as new.
    #[default]
    ByReset,
    /// Something was done on it that outlasts a RESET, or might; another one would do for this client.
    ByItsClient,
    /// Something ties the client to this very one: an idle session does not give it up.
    Never,
}

impl Up {
    pub(super) fn new(standing: Standing) -> Up {
        Up {
            scanner: ReplyScanner::default(),
            tail: Box::default(),
            download: Download::Between,
            doubt: None,
            writing: Writing::Open,
            standing,
        }
    }
}

impl Back {
    /// The connection, also one that the node has closed.
    #[inline]
    pub(super) fn last(&self) -> Option<&Up> {
        match &self.link {
            Link::Up(up) => Some(up),
            Link::Lost(lost) => Some(&lost.up),
            Link::None | Link::Attaching => None,
        }
    }

    #[inline]
    pub(super) fn last_mut(&mut self) -> Option<&mut Up> {
        match &mut self.link {
            Link::Up(up) => Some(up),
            Link::Lost(lost) => Some(&mut lost.up),
            Link::None | Link::Attaching => None,
        }
    }

    /// The connection, if it is open.
    #[inline]
    pub(super) fn up(&self) -> Option<&Up> {
        if let Link::Up(up) = &self.link { Some(up) } else { None }
    }

    #[inline]
    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// When the node closed it.
    pub(super) fn lost_at(&self) -> Option<Instant> {
        if let Link::Lost(lost) = &self.link { Some(lost.at) } else { None }
    }

    pub(super) fn download(&self) -> Download {
        self.last().map_or(Download::Between, |up| up.download)
    }

    pub(super) fn set_download(&mut self, download: Download) {
        if let Some(up) = self.last_mut() {
            up.download = download;
        }
    }

    pub(super) fn writing(&self) -> Writing {
        self.last().map_or(Writing::Open, |up| up.writing)
    }

    #[inline]
    pub(super) fn doubt(&self) -> Option<Doubt> {
        self.last().and_then(|up| up.doubt.as_deref().copied())
    }

    pub(super) fn set_doubt(&mut self, doubt: Option<Doubt>) {
        if let Some(up) = self.last_mut() {
            up.doubt = doubt.map(Box::new);
        }
    }

    /// The first byte of the reply at hand.
    #[inline]
    pub(super) fn kind(&self) -> u8 {
        self.last().map_or(0, |up| up.scanner.kind())
    }

    /// Bytes of a reply that is not whole.
    pub(super) fn tail(&self) -> &[u8] {
        self.last().map_or(&[], |up| &up.tail)
    }

    pub(super) fn take_tail(&mut self) -> Vec<u8> {
        self.last_mut().map_or_else(Vec::new, |up| std::mem::take(&mut up.tail).into_vec())
    }

    /// The server's FIN, or an error, was seen.
    pub(super) fn lose(&mut self, now: Instant) {
        self.link = match std::mem::take(&mut self.link) {
            Link::Up(up) => Link::Lost(Box::new(Lost { up, at: now })),
            other => other,
        };
    }

    /// Nothing more is read from or sent to the present connection.
    pub(super) fn leave(&mut self) {
        self.link = Link::None;
        self.out.clear();
    }

    /// The client has let go of all that tied it to this backend.
    pub(super) fn allow_reuse(&mut self) {
        self.reuse = self.reuse.min(Reuse::ByItsClient);
    }

    /// Another use of the connection than this one was ruled out.
    pub(super) fn limit_reuse(&mut self, reuse: Reuse) {
        self.reuse = self.reuse.max(reuse);
    }

    /// How it is left, now that it is `settled`: nothing is owed, and nothing was done that is not known; or only
    /// `owed_nothing`.
    pub(super) fn parting(&self, settled: bool, owed_nothing: bool, may_be_reused: bool) -> Parting {
        match self.link {
            Link::Up(_) if settled && may_be_reused && self.reuse == Reuse::ByReset => Parting::GiveBack,
            Link::Up(_) if owed_nothing => Parting::Reset,
            _ => Parting::Close,
        }
    }
}
