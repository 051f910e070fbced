//! Why sessions end: one closed list, for the log, the metrics and the table of docs/monitoring.md.

/// Why a session ended. Closed: also the metric's label and the log's field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Client: it closed its connection, or sent QUIT.
    ClientClosed,
    /// Upstream: the master closed the connection and was no other than before (CLIENT KILL, `timeout`).
    UpstreamClosed,
    /// Upstream: the master died with a reply that cannot be made up for.
    LostReply,
    /// Upstream: half a reply had been delivered when the master died.
    PartialReply,
    /// Upstream: the new master refused the client's credentials.
    AuthRefused,
    /// Upstream: the new master refused something that the client's state needs.
    NotRestored,
    /// Upstream: the master is there, but could not be reached for this session.
    Unreachable,
    /// Proxy: the connection was in a mode that cannot be moved when the master changed.
    Opaque,
    /// Proxy: a request was too large to be kept and had to be sent again.
    NotReplayable,
    /// Proxy: no master until the deadline, and a state or a request that no error can end.
    Outage,
    /// Proxy: it is shutting down.
    Drained,
}

impl CloseReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [CloseReason; 11] = [
        CloseReason::ClientClosed,
        CloseReason::UpstreamClosed,
        CloseReason::LostReply,
        CloseReason::PartialReply,
        CloseReason::AuthRefused,
        CloseReason::NotRestored,
        CloseReason::Unreachable,
        CloseReason::Opaque,
        CloseReason::NotReplayable,
        CloseReason::Outage,
        CloseReason::Drained,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::ClientClosed => "client_closed",
            CloseReason::UpstreamClosed => "upstream_closed",
            CloseReason::LostReply => "lost_reply",
            CloseReason::PartialReply => "partial_reply",
            CloseReason::AuthRefused => "auth_refused",
            CloseReason::NotRestored => "not_restored",
            CloseReason::Unreachable => "unreachable",
            CloseReason::Opaque => "opaque",
            CloseReason::NotReplayable => "not_replayable",
            CloseReason::Outage => "outage",
            CloseReason::Drained => "drained",
        }
    }
}
