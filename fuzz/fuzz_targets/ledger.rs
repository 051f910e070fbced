//! Random lives of ledgers against a plain model: replies in order, nothing twice, every retained byte accounted for.
//!
//! The model is a list of requests. It does not decide fates as the ledger does; it states what a fate may be, by
//! the contract: who may be sent again, who may be told what.

#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use switchmaster::config::{OnLostPop, OnLostReply};
use switchmaster::resp::command::{Class, Duty, Effect, classify, classify_head};
use switchmaster::resp::ordinary;
use switchmaster::resp::request::{Args, encode};
use switchmaster::resp::scanner::{RequestScanner, Scan};
use switchmaster::session::core::ledger::{Asked, DISCARD, Delivery, Judgement, Ledger};

/// The requests there are; the number of the request follows the name.
const REQUESTS: &[&[&[u8]]] = &[
    &[b"GET"],
    &[b"LRANGE", b"0", b"-1"],
    &[b"SET", b"v"],
    &[b"SET", b"v", b"NX"],
    &[b"INCR"],
    &[b"DEL"],
    &[b"ZPOPMIN"],
    &[b"EVAL", b"0"],
    &[b"NOSUCHCOMMAND"],
    &[b"BLPOP", b"0"],
    &[b"BLPOP", b"20"],
    &[b"BLMOVE", b"to", b"LEFT", b"RIGHT", b"2.5"],
    &[b"MULTI"],
    &[b"EXEC"],
    &[b"WAIT", b"0"],
    &[b"SELECT"],
    &[b"CLIENT", b"KILL"],
    &[b"SUBSCRIBE"],
];

/// What is left of a time-out in seconds is sent to the millisecond, in milliseconds as the next whole one.
const ROUNDED: f64 = 0.001_001;
/// A request is sent again at most so often.
const MAX_TRIES: u8 = 2;

#[derive(Arbitrary, Debug)]
enum Step {
    Push {
        request: u8,
        body: u8,
        first_bytes: u8,
        queued: bool,
        keep: bool,
    },
    Extend {
        bytes: u8,
        keep: bool,
    },
    Settle,
    Confirm,
    Unsent,
    RetryRefused,
    Withhold {
        refused: bool,
        later: u16,
    },
    Release {
        before: Option<u16>,
    },
    TakeFront,
    Judge {
        replicated: Option<u16>,
        later: u16,
        resp3: bool,
        policy: u8,
        unsent: u8,
        partly: bool,
        watching: bool,
        left: bool,
    },
    Fail {
        policy: u8,
        unsent: u8,
        resp3: bool,
    },
    Clear,
    Other,
}

fuzz_target!(|steps: Vec<Step>| {
    // Two, since they share what is pooled and counted by thread.
    let mut models = [Model::new(), Model::new()];
    let mut at = 0;
    for (count, step) in steps.into_iter().enumerate() {
        if let Step::Other = step {
            at = 1 - at;
            continue;
        }
        models[at].take(step);
        models[at].count();
        // What is retained of settled requests is let go of now and then, and a look at it spells out what was counted.
        if count % 4 == 0 {
            models.iter_mut().for_each(|model| model.ledger.trim());
            models[at].compare();
            let kept: usize = models.iter().map(Model::kept).sum();
            assert_eq!(Ledger::retained_by_thread(), kept);
        }
    }
    drop(models);
    assert_eq!(Ledger::retained_by_thread(), 0);
});

struct Model {
    ledger: Ledger,
    started: Instant,
    requests: Vec<Request>,
    pushed: u32,
    delivered: Option<u32>,
    /// How much later than its beginning it is.
    passed: Duration,
}

struct Request {
    number: u32,
    /// All of it, and how much of that the ledger was given.
    bytes: Vec<u8>,
    given: usize,
    /// What it does, as far as the ledger knows: of one that it does not have in whole the worst.
    effect: Effect,
    kept: bool,
    queued: bool,
    /// When it was sent, if it blocks, and its whole time-out.
    since: Instant,
    timeout: f64,
    /// Judgements at which it, or something after it, had been sent.
    tries: u8,
    /// Confirmations still owed to a SUBSCRIBE, and those held back behind other replies.
    owed: u32,
    held: Vec<u8>,
    answer: Option<Answer>,
}

/// What the client may be told.
#[derive(Clone, Debug)]
enum Answer {
    Withheld {
        reply: Vec<u8>,
        at: Instant,
        refused: bool,
    },
    Exactly(Vec<u8>),
    /// This, or something made up.
    Perhaps(Vec<u8>),
    /// Not the server's reply, which is lost or was a refusal: an error, "nothing" or a close.
    MadeUp,
    /// The rest of the request is still to come: nothing else would do.
    Close,
}

/// How far a request had got at the judgement.
#[derive(Clone, Copy)]
struct Seen {
    /// All of it was sent: it may have run.
    reached: bool,
    /// Nothing of it was sent.
    untouched: bool,
    front: bool,
}

impl Request {
    fn whole(&self) -> bool {
        self.given == self.bytes.len()
    }

    /// Every second one is noted, if it is ordinary, as a run of one.
    fn is_counted(&self) -> bool {
        self.number % 2 == 1
    }

    fn kept_bytes(&self) -> usize {
        if self.kept { self.given } else { 0 }
    }

    fn blocks(&self) -> bool {
        classify(&self.bytes).class == Class::Blocking && !self.queued
    }

    fn waits(&self) -> bool {
        self.blocks() || (classify(&self.bytes).duty == Duty::Wait && !self.queued)
    }

    fn listens(&self) -> bool {
        classify(&self.bytes).duty == Duty::Subscribe
    }

    fn is_exec(&self) -> bool {
        classify(&self.bytes).duty == Duty::Exec
    }

    /// What is left of its time-out; `None`: it blocks for ever, or not at all.
    fn left(&self, now: Instant) -> Option<f64> {
        (self.blocks() && self.timeout > 0.0).then(|| self.timeout - (now - self.since).as_secs_f64())
    }

    /// It ends the session, so that what is behind it is nobody's: half of its reply was delivered, it blocks for a
    /// client that has said FIN, or it is an EXEC that may have run.
    fn ends_session(&self, judgement: Judgement, seen: Seen) -> bool {
        let is_let_go = self.blocks() && judgement.half_closed;
        match &self.answer {
            None => {
                let is_lost = self.is_exec() && seen.reached || self.queued && !self.is_exec();
                (seen.front && judgement.partly_delivered) || is_let_go || is_lost
            }
            Some(answer) => is_let_go && matches!(answer, Answer::Withheld { refused: true, .. }),
        }
    }

    fn may_be_sent_again(&self, judgement: Judgement, seen: Seen) {
        let shown = self.bytes.escape_ascii();
        assert!(self.kept, "{shown} is sent again without its bytes");
        assert!(!(self.blocks() && judgement.half_closed), "{shown} may pop for a client that has left");
        let retries = matches!(judgement.policy, OnLostReply::RetryIdempotent | OnLostReply::RetryAll);
        let class = classify(&self.bytes).class;
        match &self.answer {
            None => {
                let may_run_twice = match class {
                    Class::Read | Class::Connection | Class::Blocking => true,
                    Class::Idempotent => retries,
                    Class::Write => judgement.policy == OnLostReply::RetryAll,
                    Class::Never => false,
                };
                // What is only queued has not run.
                assert!(!seen.reached || may_run_twice || (self.queued && !self.is_exec()), "{shown} may run twice");
                assert!(!(seen.front && judgement.partly_delivered), "half of the reply to {shown} was delivered");
            }
            Some(Answer::Withheld { refused: true, .. }) => {}
            // It has run, which does no harm a second time; what is queued runs with its EXEC.
            Some(Answer::Withheld { .. }) => {
                assert!(self.queued || matches!(class, Class::Read | Class::Connection), "{shown} has run");
                assert!(!self.listens(), "{shown} was confirmed");
            }
            Some(answer) => panic!("{shown} has its answer, {answer:?}, and is sent again"),
        }
    }

    /// Takes note of the bytes with which it is sent again: its own, or with a shorter time-out.
    fn is_sent_as(&mut self, bytes: &[u8], now: Instant) {
        if self.listens() {
            // Without the names that were confirmed.
            let mut args = vec![&b"SUBSCRIBE"[..]];
            let number = self.number.to_string();
            args.extend(std::iter::repeat_n(number.as_bytes(), self.owed as usize));
            assert_eq!(bytes, encode(&args));
            self.bytes = bytes.to_vec();
            self.given = bytes.len();
            return;
        }
        let Some(left) = self.left(now).filter(|_| self.whole()) else {
            assert_eq!(bytes, &self.bytes[..self.given], "changed on its way");
            return;
        };
        let told = Args::new(bytes).last().unwrap();
        let told: f64 = std::str::from_utf8(&told).unwrap().parse().unwrap();
        assert!(told > 0.0, "{}", bytes.escape_ascii());
        assert!((told - left).abs() < ROUNDED, "told to wait {told} s, {left} s are left");
        self.bytes = bytes.to_vec();
        self.given = bytes.len();
    }

    /// What its client is told, since it is not sent again.
    fn answer_of(&mut self, judgement: Judgement, seen: Seen) -> Answer {
        let effect = classify(&self.bytes);
        let shown = self.bytes.escape_ascii();
        let has_time = self.left(judgement.now).is_none_or(|left| left > 0.0);
        let watched = self.is_exec() && judgement.watching;
        let let_go = self.blocks() && judgement.half_closed;
        // Whether there is a queue to end, and whether a MULTI gone wrong closes first, is not known here.
        let is_end = self.bytes == DISCARD;
        match self.answer.take() {
            None => {
                let half = seen.front && judgement.partly_delivered;
                let did_not_run = seen.untouched || (self.queued && !self.is_exec());
                let must_go = self.kept
                    && did_not_run
                    && has_time
                    && !half
                    && !watched
                    && !let_go
                    && !is_end
                    && (self.tries <= MAX_TRIES || self.blocks());
                assert!(!must_go, "{shown} was given up");
                match effect.duty {
                    _ if !self.whole() => Answer::Close,
                    Duty::Wait if seen.reached && !half && !self.queued => Answer::Exactly(b":0\r\n".to_vec()),
                    _ => Answer::MadeUp,
                }
            }
            Some(Answer::Withheld { refused: true, .. }) => {
                let must_go = self.kept
                    && has_time
                    && !watched
                    && !let_go
                    && !is_end
                    && (self.tries <= MAX_TRIES || self.blocks());
                assert!(!must_go, "{shown} was refused and given up");
                Answer::MadeUp
            }
            Some(Answer::Withheld { reply, at, .. }) => {
                let replicated = judgement.replicated_until.is_some_and(|until| at < until);
                match effect.class {
                    // Behind a lost reply it may show what is no longer true, or speak of a connection that is gone.
                    _ if self.queued => Answer::Perhaps(reply),
                    _ if self.listens() => Answer::Exactly(reply),
                    Class::Read | Class::Connection => Answer::Perhaps(reply),
                    _ if replicated => Answer::Exactly(reply),
                    _ => Answer::MadeUp,
                }
            }
            Some(answer) => answer,
        }
    }
}

impl Model {
    fn new() -> Model {
        Model {
            ledger: Ledger::default(),
            started: Instant::now(),
            requests: Vec::new(),
            pushed: 0,
            delivered: None,
            passed: Duration::ZERO,
        }
    }

    fn kept(&self) -> usize {
        self.requests.iter().map(Request::kept_bytes).sum()
    }

    fn next_unanswered(&mut self) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.answer.is_none())
    }

    fn now(&self) -> Instant {
        self.started + self.passed
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Push { request, body, first_bytes, queued, keep } => {
                // The beginning of a large request is followed by its rest before another begins.
                if self.requests.last().is_none_or(|last| last.whole() || last.answer.is_some()) {
                    self.push(REQUESTS[usize::from(request) % REQUESTS.len()], body, first_bytes, queued, keep);
                }
            }
            Step::Extend { bytes, keep } => self.extend(bytes.into(), keep),
            Step::Settle => {
                // A reply may overtake nothing, and only a whole request is answered.
                if self
                    .requests
                    .first()
                    .is_some_and(|front| front.answer.is_none() && front.whole() && !front.listens())
                {
                    let front = self.requests.remove(0);
                    if front.is_counted() && self.ledger.ordinary() > 0 {
                        self.ledger.settle_ordinary(1);
                    } else {
                        self.ledger.settle();
                    }
                    self.deliver(front.number);
                }
            }
            Step::Confirm => self.confirm(),
            Step::Unsent => {
                // WAIT on a connection that wrote nothing is answered without being sent.
                let last = self.requests.last();
                if last.is_none_or(|last| last.whole() || last.answer.is_some()) {
                    self.push(&[b"WAIT", b"0"], 0, 0, false, false);
                    let reply = format!("+{}\r\n", self.pushed - 1).into_bytes();
                    self.ledger.answer_last(&reply);
                    self.requests.last_mut().unwrap().answer = Some(Answer::Exactly(reply));
                }
            }
            Step::RetryRefused => {
                let refused = |request: &Request| {
                    matches!(request.answer, Some(Answer::Withheld { refused: true, .. })) && request.kept
                };
                let all = self.requests.iter().all(refused);
                let bytes: Vec<u8> = self.requests.iter().flat_map(|request| request.bytes.clone()).collect();
                let again = self.ledger.retry_refused();
                assert_eq!(again, (all && !bytes.is_empty()).then_some(bytes));
                if again.is_some() {
                    self.requests.iter_mut().for_each(|request| request.answer = None);
                }
            }
            Step::Withhold { refused, later } => {
                let at = self.now() + Duration::from_millis(later.into());
                if let Some(next) = self.next_unanswered().filter(|next| next.whole() && !next.listens()) {
                    let reply = format!("+{}\r\n", next.number).into_bytes();
                    next.answer = Some(Answer::Withheld { reply: reply.clone(), at, refused });
                    self.ledger.withhold(&reply, at, refused);
                }
            }
            Step::Release { before } => {
                let until = before.map(|later| self.now() + Duration::from_millis(later.into()));
                self.ledger.release(until);
                for request in &mut self.requests {
                    if let Some(Answer::Withheld { reply, at, refused }) = &request.answer {
                        if until.is_some_and(|until| *refused || *at >= until) {
                            break;
                        }
                        request.answer = Some(Answer::Exactly(reply.clone()));
                    }
                }
            }
            Step::TakeFront => self.take_front(),
            Step::Judge { replicated, later, resp3, policy, unsent, partly, watching, left } => {
                self.passed += Duration::from_millis(later.into());
                let now = self.now();
                let unanswered: usize =
                    self.requests.iter().filter(|request| request.answer.is_none()).map(|request| request.given).sum();
                self.judge(Judgement {
                    replicated_until: replicated.map(|until| now + Duration::from_millis(until.into())),
                    is_connected: true,
                    diverged_from: None,
                    queue_stays_in_data_set: true,
                    now,
                    resp3,
                    policy: policy_of(policy),
                    on_lost_pop: OnLostPop::Resend,
                    unsent: (unanswered as u64).min(unsent.into()),
                    partly_delivered: partly,
                    watching,
                    half_closed: left,
                });
            }
            Step::Fail { policy, unsent, resp3 } => {
                self.fail(policy_of(policy), unsent.into(), resp3);
            }
            Step::Clear => self.clear(),
            Step::Other => {}
        }
    }

    fn push(&mut self, words: &[&[u8]], body: u8, first_bytes: u8, queued: bool, keep: bool) {
        let number = self.pushed.to_string();
        let body = vec![b'x'; body.into()];
        let mut args = vec![words[0]];
        if matches!(words[0], b"SET") {
            args.extend([number.as_bytes(), &body]);
            args.extend(&words[2..]);
        } else if matches!(words[0], b"SUBSCRIBE") {
            args.extend(std::iter::repeat_n(number.as_bytes(), 1 + body.len() % 3));
        } else if matches!(words[0], b"CLIENT") {
            args.extend([words[1], number.as_bytes()]);
        } else {
            args.push(number.as_bytes());
            args.extend(&words[1..]);
        }
        let bytes = encode(&args);
        // The command's name is always in the first piece.
        let given = if first_bytes == 0 { bytes.len() } else { bytes.len().min(40 + usize::from(first_bytes)) };
        let effect = classify(&bytes);
        // In MULTI a session does not note it, and of its names it looks at all.
        let listens = effect.duty == Duty::Subscribe;
        let (given, queued) = if listens { (bytes.len(), false) } else { (given, queued) };
        let owed = if listens { args.len() as u32 - 1 } else { 1 };
        let timeout =
            std::str::from_utf8(words[words.len() - 1]).ok().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let since = self.now();
        let effect = if given == bytes.len() { effect } else { classify_head(&bytes[..given]) };
        let request = Request {
            number: self.pushed,
            bytes,
            given,
            effect,
            kept: keep,
            queued,
            since,
            timeout,
            tries: 0,
            owed,
            held: Vec::new(),
            answer: None,
        };
        let is_ordinary = ordinary::run(&request.bytes, 1, usize::MAX).bytes == request.bytes.len();
        if is_ordinary && request.is_counted() && request.whole() && keep && !queued {
            self.ledger.push_run(&request.bytes, 1);
        } else {
            let asked = Asked { whole: request.whole(), queued, keep, ..Asked::new(request.effect) };
            self.ledger.push(asked, &request.bytes[..given], since);
        }
        if listens {
            self.ledger.owe(owed);
        }
        self.requests.push(request);
        self.pushed += 1;
    }

    fn extend(&mut self, bytes: usize, keep: bool) {
        let now = self.now();
        // An answer to it may have been made up meanwhile; then the session closes.
        let Some(last) = self.requests.last_mut().filter(|last| !last.whole() && last.answer.is_none()) else { return };
        let end = last.bytes.len().min(last.given + bytes);
        let piece = &last.bytes[last.given..end];
        self.ledger.extend_last(piece, end == last.bytes.len(), keep, now);
        last.given = end;
        last.kept &= keep;
        if last.whole() && last.kept {
            last.effect = classify(&last.bytes);
        }
    }

    /// One confirmation comes for the next unanswered request.
    fn confirm(&mut self) {
        let now = self.now();
        let held_back = self.requests.first().is_some_and(|front| front.answer.is_some());
        let Some(next) = self.next_unanswered().filter(|next| next.listens()) else { return };
        next.owed -= 1;
        let frame = format!("+{}/{}\r\n", next.number, next.owed).into_bytes();
        if held_back {
            next.held.extend(&frame);
            if next.owed == 0 {
                let reply = std::mem::take(&mut next.held);
                next.answer = Some(Answer::Withheld { reply, at: now, refused: false });
            }
            self.ledger.withhold_one(&frame, now, || panic!("known before"));
            return;
        }
        let (number, owed) = (next.number, next.owed);
        // What was held back goes out first, and once.
        let held = std::mem::take(&mut next.held);
        assert_eq!(self.ledger.take_part().unwrap_or_default(), held);
        assert_eq!(self.ledger.settle_one(|| panic!("known before")), owed == 0);
        if owed == 0 {
            self.requests.remove(0);
            self.deliver(number);
        }
    }

    fn deliver(&mut self, number: u32) {
        assert!(self.delivered.is_none_or(|before| before < number), "{number} after {:?}", self.delivered);
        self.delivered = Some(number);
    }

    fn take_front(&mut self) {
        let Some(front) = self.ledger.take_front() else {
            let answer = self.requests.first().and_then(|front| front.answer.as_ref());
            assert!(matches!(answer, None | Some(Answer::Withheld { .. })), "an answer is kept back");
            return;
        };
        let expected = self.requests.remove(0);
        match (front, expected.answer.clone()) {
            (_, None | Some(Answer::Withheld { .. })) => panic!("an answer that nobody gave"),
            (Delivery::Reply { reply, to }, Some(answer)) => {
                let made_up = !reply.starts_with(b"+");
                match answer {
                    Answer::Exactly(exactly) => assert_eq!(reply, exactly),
                    Answer::Perhaps(perhaps) => assert!(made_up || reply == perhaps),
                    Answer::MadeUp => assert!(made_up, "a lost reply turned up: {}", reply.escape_ascii()),
                    _ => panic!("{} in place of {answer:?}", reply.escape_ascii()),
                }
                assert_eq!(to.request, &expected.bytes[..expected.kept_bytes()]);
                assert_eq!((to.queued, to.effect), (expected.queued, expected.effect));
                self.deliver(expected.number);
            }
            (Delivery::Close(_), Some(answer)) => {
                assert!(!matches!(answer, Answer::Exactly(_)), "closed in place of {answer:?}");
                self.clear(); // the session ends here
            }
        }
    }

    fn judge(&mut self, judgement: Judgement) {
        let verdict = self.ledger.judge(judgement);
        let again = parse(&verdict.again);
        let mut again = again.iter().peekable();
        let unanswered = self.requests.iter().filter(|request| request.answer.is_none());
        let mut sent = unanswered.map(|request| request.given as u64).sum::<u64>() - judgement.unsent;
        let (mut front, mut replayed, mut blocked, mut is_over) = (true, 0, false, false);
        for request in &mut self.requests {
            if is_over {
                break;
            }
            let size = request.given as u64;
            let reached = request.whole() && sent >= size && !blocked;
            let seen = Seen { reached, untouched: sent == 0 || blocked, front };
            front = false;
            if request.answer.is_none() {
                request.tries = request.tries.saturating_add(u8::from(!seen.untouched));
                sent = sent.saturating_sub(size);
                // An old master that lived has answered all that it ran: it has not come further than what blocks.
                blocked |= reached && request.waits() && judgement.replicated_until.is_some();
            }
            // A queue that is sent again ends, though its EXEC is nil.
            let is_nil = request.is_exec() && judgement.watching && !request.ends_session(judgement, seen);
            let ends_queue = request.bytes == DISCARD || is_nil;
            match again.next_if(|(number, bytes)| *number == Some(request.number) || (ends_queue && bytes == DISCARD)) {
                Some((None, _)) => {
                    (request.bytes, request.given, request.kept) = (DISCARD.to_vec(), DISCARD.len(), true);
                    request.effect.class = Class::Connection;
                    replayed += 1;
                    request.answer = None;
                }
                Some((_, bytes)) => {
                    request.may_be_sent_again(judgement, seen);
                    request.is_sent_as(bytes, judgement.now);
                    replayed += u64::from(request.whole());
                    request.answer = None;
                }
                None => {
                    is_over = request.ends_session(judgement, seen);
                    request.answer = Some(request.answer_of(judgement, seen));
                }
            }
        }
        if is_over {
            while matches!(self.requests.first().map(|front| &front.answer), Some(Some(answer)) if !matches!(answer, Answer::Withheld { .. }))
            {
                self.take_front();
            }
            return self.clear();
        }
        assert!(again.next().is_none(), "sent again out of order, twice, or though answered");
        assert_eq!(verdict.replayed, replayed);
        assert!(verdict.lost <= self.requests.len() as u64);
    }

    fn fail(&mut self, policy: OnLostReply, unsent: u64, resp3: bool) {
        const ERROR: &[u8] = b"-MASTERDOWN none\r\n";
        let lost = self.ledger.fail(ERROR, policy, OnLostPop::Resend, unsent, resp3);
        assert!(lost <= self.requests.len() as u64);
        for request in &mut self.requests {
            // What has its answer keeps it.
            if matches!(request.answer, None | Some(Answer::Withheld { .. })) {
                request.answer = Some(Answer::MadeUp);
            }
        }
        assert!(!self.ledger.awaits_backend());
    }

    fn clear(&mut self) {
        self.ledger.clear();
        self.requests.clear();
    }

    fn count(&self) {
        assert_eq!(self.ledger.len(), self.requests.len());
        assert_eq!(self.ledger.is_empty(), self.requests.is_empty());
        assert_eq!(self.ledger.awaits_backend(), self.requests.iter().any(|request| request.answer.is_none()));
        assert_eq!(self.ledger.has_answers(), self.requests.first().is_some_and(|front| front.answer.is_some()));
    }

    fn compare(&mut self) {
        let unanswered = self.requests.iter().find(|request| request.answer.is_none());
        assert_eq!(self.ledger.retained(), self.kept());
        assert_eq!(self.ledger.expected(), unanswered.map(|request| (request.effect, request.queued)));
        let front = self.requests.first().map_or(&[][..], |front| &front.bytes[..front.kept_bytes()]);
        assert_eq!(self.ledger.front_request(), front);
    }
}

/// The requests in `bytes`, each with its number; the last may be a part.
fn parse(mut bytes: &[u8]) -> Vec<(Option<u32>, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let end = match RequestScanner::default().scan(bytes) {
            Scan::Frame(end) => end,
            Scan::Partial => bytes.len(),
            Scan::Invalid(why) => panic!("{why}: {}", bytes.escape_ascii()),
        };
        let request = &bytes[..end];
        let number = Args::new(request).skip(1).find_map(|arg| std::str::from_utf8(&arg).ok()?.parse().ok());
        found.push((number, request.to_vec()));
        bytes = &bytes[end..];
    }
    found
}

fn policy_of(choice: u8) -> OnLostReply {
    use OnLostReply::{Close, Error, RetryAll, RetryIdempotent};
    [Error, Close, RetryIdempotent, RetryAll][usize::from(choice) % 4]
}
