//! The credentials that let us in at an upstream's nodes: control owns them, and everybody else asks here.
//!
//! A session that saw a client authenticate offers what it used; only control puts anything in force.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::secret::Credentials;

/// The credentials of one upstream.
#[derive(Debug)]
pub struct KnownCredentials {
    current: Mutex<Option<Credentials>>,
    /// The newest that was offered and that control has not looked at.
    offered: Mutex<Option<Credentials>>,
    /// Whether control wants what is offered.
    learns: AtomicBool,
}

impl KnownCredentials {
    /// Those that are configured; `learns`: control wants to know those with which clients authenticate.
    pub fn new(configured: Option<&Credentials>, learns: bool) -> KnownCredentials {
        KnownCredentials {
            current: Mutex::new(configured.cloned()),
            offered: Mutex::default(),
            learns: AtomicBool::new(learns),
        }
    }

    /// Those in force.
    pub fn current(&self) -> Option<Credentials> {
        lock(&self.current).clone()
    }

    /// Whether this is the password in force.
    pub fn is_password(&self, password: &[u8]) -> bool {
        lock(&self.current).as_ref().is_some_and(|current| password == current.password.bytes())
    }

    /// A client's AUTH succeeded with these. Of several the newest is kept until control looks.
    pub fn offer(&self, proved: Credentials) {
        if self.learns.load(Ordering::Relaxed) && lock(&self.current).as_ref() != Some(&proved) {
            *lock(&self.offered) = Some(proved);
        }
    }

    /// Control says whether it wants to know from now on what is offered.
    pub fn learn(&self, learns: bool) {
        self.learns.store(learns, Ordering::Relaxed);
    }

    /// Control looks at the newest that was offered since it looked last.
    pub fn take_offered(&self) -> Option<Credentials> {
        lock(&self.offered).take()
    }

    /// Control puts these in force.
    pub fn set(&self, credentials: Option<&Credentials>) {
        let mut current = lock(&self.current);
        if current.as_ref() != credentials {
            *current = credentials.cloned();
        }
    }
}

fn lock(credentials: &Mutex<Option<Credentials>>) -> MutexGuard<'_, Option<Credentials>> {
    credentials.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn password(text: &str) -> Credentials {
        Credentials { username: None, password: Secret::new(text) }
    }

    #[test]
    fn what_a_client_proved_is_in_force_once_control_says_so_and_a_rotation_replaces_it() {
        let known = KnownCredentials::new(None, true);
        known.offer(password("old"));
        assert_eq!(known.current(), None, "control decides");
        let offered = known.take_offered();
        known.set(offered.as_ref());
        assert!(known.is_password(b"old"));
        known.offer(password("old"));
        assert_eq!(known.take_offered(), None, "nothing new");
        known.offer(password("new"));
        known.offer(password("newest"));
        known.set(known.take_offered().as_ref());
        assert_eq!(known.current(), Some(password("newest")));
    }

    #[test]
    fn where_nothing_is_to_be_learned_nothing_is_kept() {
        let known = KnownCredentials::new(Some(&password("ours")), false);
        known.offer(password("theirs"));
        assert_eq!((known.take_offered(), known.current()), (None, Some(password("ours"))));
        known.learn(true);
        known.offer(password("theirs"));
        assert_eq!(known.take_offered(), Some(password("theirs")));
    }
}
