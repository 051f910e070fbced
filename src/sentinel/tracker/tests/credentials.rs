//! As whom the nodes are asked: refused, not permitted, learnt, rotated; never worse than nobody.

use super::*;
use crate::secret::Secret;

const NOPERM: &str = "-NOPERM User app has no permissions to run the 'role' command";
const NOAUTH: &str = "-NOAUTH Authentication required.";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

fn login(user: Option<&str>, password: &str) -> Credentials {
    Credentials { username: user.map(|user| user.as_bytes().to_vec()), password: Secret::new(password) }
}

fn unreadable(words: &str) -> Role {
    Role::Unreadable(words.into())
}

/// Three Sentinels name node 0; it was not asked yet.
fn named(settings: Settings) -> World {
    let mut world = World::new(settings);
    for index in 0..3 {
        world.connect(index);
        world.answer(index, MASTER, 5);
    }
    world.replicas_say();
    world
}

impl World {
    fn used(&self) -> Option<Credentials> {
        self.tracker.login().credentials
    }

    fn credentials(&self) -> CredentialsState {
        self.tracker.show(self.now).credentials
    }

    fn warns(&self, part: &str) -> bool {
        self.tracker.show(self.now).warnings.iter().any(|warning| warning.contains(part))
    }

    fn logged(&self, part: &str) -> usize {
        self.logs.iter().filter(|line| line.contains(part)).count()
    }

    /// Time goes by in which the master answers as it does now.
    fn steady(&mut self, ms: u64, mut answer: impl FnMut(&mut World)) {
        for _ in 0..ms / 200 {
            self.after(200);
            self.all_answer();
            answer(self);
        }
    }
}

#[test]
fn a_configured_user_who_may_not_ask_role_is_no_worse_than_nobody() {
    let app = login(Some("app"), "pw");
    let mut world = named(Settings { credentials: Some(app.clone()), ..settings() });
    assert_eq!(world.used(), Some(app.clone()));
    world.node_says(MASTER, unreadable(NOPERM), None);
    assert_eq!(world.used(), None, "the default user may be open");
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.master().0), (Phase::Stable, addr(MASTER)));
    assert_eq!(world.credentials(), CredentialsState::NotPermitted);
    assert!(world.warns("+role +info") && world.warns("asked without"), "{:?}", world.tracker.show(world.now).warnings);
    world.steady(40_000, |world| world.master_says(MASTER, 100, &[CANDIDATE, OTHER]));
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1));
    assert_eq!(world.used(), Some(app), "it is tried again now and then: the rule may have been set right");
    assert_eq!(world.credentials(), CredentialsState::Configured);
    assert!(!world.warns("+role"));
    assert_eq!(world.logged("does not let our user ask ROLE"), 1, "{:?}", world.logs);
}

#[test]
fn learnt_credentials_that_may_not_ask_leave_it_as_it_was_and_better_ones_are_taken() {
    let mut world = named(settings());
    world.node_says(MASTER, unreadable(NOAUTH), None);
    assert_eq!((world.phase(), world.credentials()), (Phase::Stable, CredentialsState::Missing));
    world.handle(Input::Credentials(login(Some("app"), "pw")));
    assert_eq!(world.used(), Some(login(Some("app"), "pw")));
    world.node_says(MASTER, unreadable(NOPERM), None);
    assert_eq!(world.credentials(), CredentialsState::NotPermitted);
    assert_eq!(world.tracker.health_credentials(), Some(&login(Some("app"), "pw")), "it can log in");
    world.steady(20_000, |world| {
        let words = if world.used().is_some() { NOPERM } else { NOAUTH };
        world.node_says(MASTER, unreadable(words), None);
    });
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1), "{:?}", world.logs);
    assert!(world.warns("+role +info"));
    assert_eq!(world.logged("does not let a client's user"), 1, "{:?}", world.logs);
    world.handle(Input::Credentials(login(None, "secret")));
    assert_eq!(world.used(), Some(login(None, "secret")), "at once");
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!((world.phase(), world.credentials()), (Phase::Stable, CredentialsState::Learnt));
    assert!(world.tracker.show(world.now).warnings.is_empty());
}

#[test]
fn a_password_that_clients_have_changed_is_proven_anew_and_replaced() {
    let (old, new) = (login(None, "a"), login(Some("default"), "b"));
    for configured in [None, Some(old.clone())] {
        let mut world = named(Settings { credentials: configured.clone(), ..settings() });
        if configured.is_none() {
            world.node_says(MASTER, unreadable(NOAUTH), None);
            world.handle(Input::Credentials(old.clone()));
        }
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        world.steady(4_000, |world| world.master_says(MASTER, 100, &[CANDIDATE, OTHER]));
        let before = world.tracker.login();
        world.handle(Input::Credentials(new.clone()));
        world.after(10);
        let again = world.tracker.login();
        assert_eq!(again.credentials, Some(old.clone()));
        assert_ne!(again.id, before.id, "the same on a new connection");
        world.node_says(MASTER, unreadable(WRONGPASS), None);
        let refused = world.used();
        if configured.is_some() {
            assert_eq!(refused, None, "nobody is tried before a client");
            world.node_says(MASTER, unreadable(NOAUTH), None);
        }
        assert_eq!(world.used(), Some(new.clone()));
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1), "{:?}", world.logs);
        assert_eq!(world.tracker.health_credentials(), Some(&new));
        let told = world.warns("set redis_password");
        assert_eq!(
            (world.credentials() == CredentialsState::Refused, told),
            (configured.is_some(), configured.is_some())
        );
        world.handle(Input::Configured(Some(new.clone())));
        world.after(10);
        world.after(31_000);
        world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
        assert_eq!(world.credentials(), CredentialsState::Configured);
    }
}

#[test]
fn what_works_is_proven_now_and_then_but_never_while_something_goes_on() {
    let mut world = World::following();
    let first = world.tracker.login();
    world.selected();
    world.after(1_000);
    assert_eq!(world.tracker.login(), first, "a failover");
    let mut world = World::following();
    let first = world.tracker.login();
    world.steady(11_000, |world| world.master_says(MASTER, 100, &[CANDIDATE, OTHER]));
    assert!(world.tracker.login().id > first.id);
}

#[test]
fn clients_passwords_are_not_used_when_that_is_switched_off() {
    let own = login(None, "a");
    let settings = Settings { credentials: Some(own.clone()), learn_credentials: false, ..settings() };
    let mut world = named(settings);
    world.handle(Input::Credentials(login(None, "b")));
    world.node_says(MASTER, unreadable(WRONGPASS), None);
    assert_eq!(world.used(), None);
    world.node_says(MASTER, unreadable(NOAUTH), None);
    assert_eq!((world.used(), world.credentials()), (None, CredentialsState::Refused));
    assert_eq!(world.tracker.health_credentials(), None);
    assert_eq!((world.phase(), world.logged("refuses our credentials")), (Phase::Stable, 1));
    world.handle(Input::Configured(Some(login(None, "b"))));
    assert_eq!(world.used(), Some(login(None, "b")), "the file was changed");
    world.master_says(MASTER, 100, &[CANDIDATE, OTHER]);
    assert_eq!(world.credentials(), CredentialsState::Configured);
}

/// A node that stops to answer ROLE is no other process: a term more would cost clients who are logged in with the old
/// password their connections.
#[test]
fn a_new_connection_that_may_not_ask_is_taken_for_the_same_process_unless_sessions_were_cut() {
    let mut world = World::following();
    world.connections[MASTER] = 2;
    world.node_says(MASTER, unreadable(NOAUTH), None);
    world.after(100);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1), "{:?}", world.logs);
    world.handle(Input::SessionEof { term: 1 });
    world.connections[MASTER] = 3;
    world.node_says(MASTER, unreadable(NOAUTH), None);
    assert_eq!(world.phase(), Phase::Suspect);
    world.after(10);
    world.all_answer();
    world.node_says(MASTER, unreadable(NOAUTH), None);
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 2), "{:?}", world.logs);

    let mut world = World::following();
    world.refused(MASTER);
    world.after(3_000);
    world.connections[MASTER] = 2;
    world.node_says(MASTER, unreadable(NOAUTH), None);
    assert_ne!(world.phase(), Phase::Stable, "nobody listened there: it is another process");
}

#[test]
fn a_user_who_may_ask_role_but_not_info_is_followed_and_reported() {
    let mut world = World::following();
    for connection in [1, 2] {
        world.connections[MASTER] = connection;
        let (now, login) = (world.now, world.tracker.login().id);
        let role = Role::Master { offset: 100, replicas: vec![(addr(CANDIDATE), 100), (addr(OTHER), 100)] };
        let info_refused = Some("-NOPERM User app has no permissions to run the 'info' command".into());
        let answer = NodeAnswer { asked: now, connection, role, info: None, info_refused, login };
        world.handle(Input::Node(addr(MASTER), FromNode::Answer(Box::new(answer))));
        assert_eq!(world.proofs.last(), Some(&now), "connection {connection}");
        world.after(100);
    }
    assert_eq!((world.phase(), world.entry().term), (Phase::Stable, 1), "{:?}", world.logs);
    assert!(world.warns("+info"));
}
