//! As whom a node is asked.
//!
//! Who chooses does so elsewhere; here it is only carried there and back.

use crate::secret::Credentials;

/// Credentials to ask the nodes with. Each choice has an id of its own, also when it is the same again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Comes back in [`super::report::NodeAnswer::login`]. 0 is nobody's choice: a node that we do not trust is asked without.
    pub id: u64,
    /// `None`: without.
    pub credentials: Option<Credentials>,
}
