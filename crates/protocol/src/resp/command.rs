//! What a command does: may it run again, what shape its reply has, what the session must know of it.
//!
//! All knowledge of commands is one line each in `table.rs`; this file finds the line and looks
//! at the arguments of those few commands whose class or shape depends on them.

use super::request::{self, Args};
use super::table::{SHORT, SLOTS, TABLE, UNKNOWN, short_slot, slot};

/// What is known of a command by its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// In upper case; a subcommand is `CONFIG|GET`.
    pub name: &'static str,
    /// Whether it may be sent again when its reply was lost.
    pub class: Class,
    /// The shape of a reply that is no error.
    pub shape: Shape,
    /// What the session has to do about it.
    pub duty: Duty,
    /// Which of its arguments change the above.
    pub(super) look: Look,
}

/// Whether a request whose reply was lost may be sent to the new master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No effect on data: may be sent again.
    Read,
    /// Leaves the same data when run twice, though its reply may differ (`DEL`: 1, then 0).
    Idempotent,
    /// Would run twice.
    Write,
    /// Waits for data: may be sent again with the time that is left.
    Blocking,
    /// Changes this connection alone: is always sent again.
    Connection,
    /// Is about one node or one moment, or cannot be repeated alone: never sent again.
    Never,
}

/// How clients read the reply, and so whether they notice an error in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A status, number, string or nil: an error is read as an error.
    Scalar,
    /// An array, map or set: some clients read an error as empty.
    Aggregate,
    /// Depends on a script or module.
    Unknown,
}

/// What a session must do about a command besides passing it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is named after its command")]
pub enum Duty {
    /// Nothing.
    None,
    Auth,
    Hello,
    Select,
    /// Look at the subcommand.
    Client,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Subscribe,
    Psubscribe,
    Ssubscribe,
    Unsubscribe,
    Punsubscribe,
    Sunsubscribe,
    Monitor,
    /// SYNC, PSYNC, REPLCONF: what follows is not requests and replies.
    Replication,
    Reset,
    Quit,
    /// SCRIPT: look at the subcommand.
    Script,
    /// EVAL, EVAL_RO: a script's body, whose SHA can be learnt.
    Eval,
    /// EVALSHA, EVALSHA_RO.
    Evalsha,
    /// WAIT, WAITAOF.
    Wait,
    ReadOnly,
    ReadWrite,
    Asking,
    /// Its reply differs in RESP2 pub/sub.
    Ping,
}

impl Duty {
    /// The reply may change what has to be restored on another backend.
    pub fn changes_session(self) -> bool {
        !matches!(self, Duty::None | Duty::Ping | Duty::Eval | Duty::Evalsha | Duty::Script | Duty::Wait | Duty::Asking)
    }

    /// Changes what the connection is subscribed to; gets one confirmation for each name.
    pub fn is_pubsub(self) -> bool {
        matches!(
            self,
            Duty::Subscribe
                | Duty::Psubscribe
                | Duty::Ssubscribe
                | Duty::Unsubscribe
                | Duty::Punsubscribe
                | Duty::Sunsubscribe
        )
    }
}

/// Which arguments decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Nothing,
    /// The second argument makes another command.
    Subcommand,
    /// SET's options.
    Set,
    /// With this many arguments the reply is an aggregate.
    CountAt3,
    CountAt4,
    /// With this word the reply is an aggregate.
    Word(&'static str),
    /// EXPIREAT key time [condition].
    Conditional,
    /// SORT, GEORADIUS: STORE makes it a write.
    Store,
    Xread,
    Xreadgroup,
    Bitfield,
    Getex,
    Zadd,
}

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The line of the table: the subcommand's where it has one.
    pub command: &'static Command,
    /// The class of this request; its arguments may make it other than the command's.
    pub class: Class,
    /// The shape of this request's reply.
    pub shape: Shape,
    /// The command's duty.
    pub duty: Duty,
}

/// The command of this name, in any case; an unknown name is a write of unknown shape.
#[inline]
pub fn lookup(name: &[u8]) -> &'static Command {
    find(name, b"").unwrap_or(&UNKNOWN)
}

/// What this whole request does. An empty one gets no reply, and is UNKNOWN.
pub fn classify(request: &[u8]) -> Effect {
    if let Some(name) = request::short_name(request)
        && let Some(command) = find_short(name.packed)
        // SET with two arguments has no options to look at.
        && (command.look == Look::Nothing || (command.look == Look::Set && name.arguments == 3))
    {
        return Effect::of(command);
    }
    let mut args = Args::new(request);
    let Some(name) = args.next() else {
        return Effect::of(&UNKNOWN);
    };
    let command = lookup(&name);
    match command.look {
        Look::Nothing => Effect::of(command),
        Look::Subcommand => {
            let sub = args.next().and_then(|sub| find(&name, &sub));
            Effect::of(sub.unwrap_or(command))
        }
        look => Effect::of(command).seen(look, args),
    }
}

/// What a request may do of which only the beginning is here: as far as later arguments decide, the worst.
pub fn classify_head(head: &[u8]) -> Effect {
    let effect = classify(head);
    match effect.command.look {
        Look::Nothing | Look::Subcommand => effect,
        _ => Effect { class: Class::Write, ..effect },
    }
}

/// The unit of a blocking command's time-out; 0 of either is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Seconds, possibly with a fraction.
    Seconds,
    /// Whole milliseconds.
    Millis,
}

/// Where a request that blocks has its time-out, as an index for `request::with_arg`.
pub fn blocking_timeout(request: &[u8]) -> Option<(usize, Timeout)> {
    let effect = classify(request);
    if effect.class != Class::Blocking {
        return None;
    }
    match effect.command.name {
        "BLMPOP" | "BZMPOP" => Some((1, Timeout::Seconds)),
        "XREAD" | "XREADGROUP" => Some((block_option(Args::new(request))?, Timeout::Millis)),
        _ => Some((Args::new(request).count() - 1, Timeout::Seconds)),
    }
}

/// The line of a packed name: one multiplication and one comparison.
#[inline]
pub(super) fn find_short(packed: u64) -> Option<&'static Command> {
    let (known, line) = SHORT[short_slot(packed)];
    (known == packed).then(|| &TABLE[usize::from(line)])
}

/// The line of `name`, or of `name|sub` unless `sub` is empty.
#[inline]
fn find(name: &[u8], sub: &[u8]) -> Option<&'static Command> {
    let mut at = slot(name, sub);
    loop {
        let command = &TABLE[usize::from(SLOTS[at]).checked_sub(1)?];
        if is_named(command.name.as_bytes(), name, sub) {
            return Some(command);
        }
        at = (at + 1) % SLOTS.len();
    }
}

#[inline]
fn is_named(full: &[u8], name: &[u8], sub: &[u8]) -> bool {
    if sub.is_empty() {
        // Names hold no `|`, but a client may send one.
        return full.eq_ignore_ascii_case(name) && !name.contains(&b'|');
    }
    full.len() == name.len() + 1 + sub.len()
        && full[..name.len()].eq_ignore_ascii_case(name)
        && full[name.len()] == b'|'
        && full[name.len() + 1..].eq_ignore_ascii_case(sub)
}

impl Effect {
    /// It changes no data: at most this connection.
    pub fn writes_nothing(self) -> bool {
        matches!(self.class, Class::Read | Class::Connection)
    }

    /// All it does is in the data set, so that nothing of it is left where that part of the data set is thrown away: no
    /// message was published, no other server written to, and nothing about the node changed. Of scripts only EVAL can
    /// be known, by its text: the one such effect open to a script is to publish.
    pub fn stays_in_data_set(self, request: &[u8]) -> bool {
        const OUTSIDE: [&str; 6] = ["PUBLISH", "SPUBLISH", "MIGRATE", "SAVE", "BGSAVE", "BGREWRITEAOF"];
        const NODE: [&str; 6] = ["ACL", "CONFIG", "LATENCY", "SLOWLOG", "COMMANDLOG", "MEMORY"];
        let name = self.command.name;
        match self.duty {
            _ if self.writes_nothing() => true,
            Duty::Eval => !request.windows(7).any(|word| word.eq_ignore_ascii_case(b"publish")),
            _ if self.class == Class::Never || self.shape == Shape::Unknown => false,
            _ => !OUTSIDE.contains(&name) && !NODE.contains(&name.split('|').next().unwrap_or_default()),
        }
    }

    fn of(command: &'static Command) -> Effect {
        Effect { command, class: command.class, shape: command.shape, duty: command.duty }
    }

    /// `args` are those after the name.
    #[cold]
    fn seen(mut self, look: Look, mut args: Args<'_>) -> Effect {
        match look {
            Look::Nothing | Look::Subcommand => {}
            Look::Set => {
                let mut options = args.skip(2);
                while let Some(option) = options.next() {
                    if is_any(&option, &["EX", "PX", "EXAT", "PXAT"]) {
                        options.next();
                    } else if !is_any(&option, &["KEEPTTL"]) {
                        // NX, XX, GET, IFEQ …: the reply says what was there before.
                        self.class = Class::Write;
                    }
                }
            }
            Look::CountAt3 if args.nth(1).is_some() => self.shape = Shape::Aggregate,
            Look::CountAt4 if args.nth(2).is_some() => self.shape = Shape::Aggregate,
            Look::CountAt3 | Look::CountAt4 => {}
            Look::Word(word) => {
                if args.skip(2).any(|arg| is_any(&arg, &[word])) {
                    self.shape = Shape::Aggregate;
                }
            }
            Look::Conditional => {
                if args.nth(2).is_some() {
                    self.class = Class::Write;
                }
            }
            Look::Store => {
                // A pattern or member of that name only makes it more careful.
                let stores = args.skip(1).any(|arg| is_any(&arg, &["STORE", "STOREDIST"]));
                (self.class, self.shape) = match stores {
                    true => (Class::Write, Shape::Scalar),
                    false => (Class::Read, Shape::Aggregate),
                };
            }
            Look::Xread => {
                if block_position(args).is_none() {
                    self.class = Class::Read;
                }
            }
            Look::Xreadgroup => {
                let blocks = block_position(args.clone()).is_some();
                // Without `>` it reads again what this consumer was given before.
                let news = args.skip_while(|arg| !is_any(arg, &["STREAMS"])).any(|id| *id == *b">");
                self.class = match (news, blocks) {
                    (false, _) => Class::Read,
                    (true, true) => Class::Blocking,
                    (true, false) => Class::Write,
                };
            }
            Look::Bitfield => {
                let mut options = args.skip(1);
                let mut reads = true;
                while let Some(option) = options.next() {
                    reads &= is_any(&option, &["GET"]);
                    options.nth(1);
                }
                if reads {
                    self.class = Class::Read;
                }
            }
            Look::Getex => {
                if args.nth(1).is_none() {
                    self.class = Class::Read;
                }
            }
            Look::Zadd => {
                // INCR adds again, NX and the like answer whether it was the first.
                let mut options = args.skip(1);
                if options.any(|option| is_any(&option, &["INCR", "NX", "XX", "GT", "LT"])) {
                    self.class = Class::Write;
                }
            }
        }
        self
    }
}

/// The index, in a whole XREAD or XREADGROUP request, of the milliseconds after BLOCK.
fn block_option(mut args: Args<'_>) -> Option<usize> {
    args.next()?;
    block_position(args).map(|at| at + 2)
}

/// The index of BLOCK among the arguments after the name. A group may be named `BLOCK`.
fn block_position(args: Args<'_>) -> Option<usize> {
    let mut args = args.enumerate();
    while let Some((at, arg)) = args.next() {
        if is_any(&arg, &["STREAMS"]) {
            return None;
        } else if is_any(&arg, &["BLOCK"]) {
            return Some(at);
        } else if is_any(&arg, &["GROUP"]) {
            args.nth(1);
        } else if is_any(&arg, &["COUNT", "CLAIM"]) {
            args.next();
        }
    }
    None
}

fn is_any(arg: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| arg.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
