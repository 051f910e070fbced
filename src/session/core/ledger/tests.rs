//! What a ledger makes of the requests that a failover finds in flight, and that a run is no different from entries.

use proptest::prelude::*;

use super::*;
use crate::resp::command::{classify, classify_head};
use crate::resp::request::encode;

fn judgement(now: Instant) -> Judgement {
    Judgement {
        replicated_until: None,
        is_connected: true,
        diverged_from: None,
        queue_stays_in_data_set: true,
        now,
        resp3: false,
        policy: OnLostReply::Error,
        on_lost_pop: OnLostPop::Resend,
        unsent: 0,
        partly_delivered: false,
        watching: false,
        half_closed: false,
    }
}

#[test]
fn what_the_client_was_not_told_of_is_asked_again_behind_a_refusal() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    let (incr, multi) = (&b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n"[..], &b"*1\r\n$5\r\nMULTI\r\n"[..]);
    ledger.push(Asked::new(classify(incr)), incr, now);
    ledger.push(Asked::new(classify(multi)), multi, now);
    ledger.withhold(b"-READONLY You can't write against a read only replica.\r\n", now, true);
    ledger.withhold(b"+OK\r\n", now, false);
    let verdict = ledger.judge(judgement(now));
    assert_eq!(verdict.again, [incr, multi].concat(), "else what follows MULTI would run by itself");
    assert_eq!((verdict.replayed, verdict.lost), (2, 0));
    assert!(!ledger.has_answers());
}

#[test]
fn a_queue_that_is_sent_again_ends_though_its_exec_is_nil() {
    let now = Instant::now();
    let requests = [encode(&[b"MULTI"]), encode(&[b"INCR", b"a"]), encode(&[b"EXEC"])];
    let mut ledger = Ledger::default();
    for (at, request) in requests.iter().enumerate() {
        ledger.push(Asked { queued: at == 1, ..Asked::new(classify(request)) }, request, now);
    }
    let unsent = requests.concat().len() as u64;
    let sent_again = [&requests[0], &requests[1], DISCARD].concat();
    for _ in 0..2 {
        let verdict = ledger.judge(Judgement { unsent, watching: true, ..judgement(now) });
        assert_eq!(verdict.again, sent_again, "or the next MULTI would be refused");
    }
    ledger.settle();
    ledger.settle();
    assert_eq!(ledger.next_fate(), Fate::Nothing);
}

#[test]
fn the_proxys_own_requests_are_never_sent_again() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    let (reset, get) = (encode(&[b"RESET"]), encode(&[b"GET", b"a"]));
    let own = Asked {
        origin: Origin::Proxy,
        fate: Fate::Swallow(b"+RESET\r\n"),
        keep: false,
        ..Asked::new(classify(&reset))
    };
    ledger.push(own, &reset, now);
    ledger.push(Asked::new(classify(&get)), &get, now);
    let verdict = ledger.judge(judgement(now));
    assert_eq!((verdict.again, verdict.replayed), (get.clone(), 1));
    assert_eq!(ledger.len(), 1);
    ledger.settle();
    ledger.push(own, &reset, now);
    assert_eq!(ledger.fail(b"-E\r\n", OnLostReply::Error, OnLostPop::Resend, 0, false), 0);
    assert!(ledger.is_empty());
}

#[test]
fn what_stands_behind_a_pop_that_blocks_has_not_run() {
    let now = Instant::now();
    let requests: Vec<Vec<u8>> =
        [vec![&b"BLPOP"[..], b"q", b"0"], vec![b"INCR", b"a"], vec![b"MULTI"], vec![b"INCR", b"a"], vec![b"EXEC"]]
            .iter()
            .map(|args| encode(args))
            .collect();
    let mut ledger = Ledger::default();
    for (at, request) in requests.iter().enumerate() {
        ledger.push(Asked { queued: at == 3, ..Asked::new(classify(request)) }, request, now);
    }
    assert!(ledger.has_more_behind_a_block());
    for _ in 0..5 {
        let verdict = ledger.judge(Judgement { replicated_until: Some(now), ..judgement(now) });
        assert_eq!((verdict.again, verdict.lost), (requests.concat(), 0), "however many masters it outlasts");
    }
    // One that died while it was held for alive has closed the connection.
    let verdict = ledger.judge(Judgement { replicated_until: Some(now), is_connected: false, ..judgement(now) });
    let again = [&requests[..1], &requests[2..4]].concat().concat();
    assert_eq!((verdict.again, verdict.lost), (again, 2), "a dead one may have come further");
}

#[test]
fn what_blocks_goes_on_with_the_time_that_is_left() {
    let waited = std::time::Duration::from_millis(2_500);
    let left = |args: &[&[u8]]| with_time_left(&encode(args), waited);
    assert_eq!(left(&[b"BLPOP", b"q", b"12"]).unwrap(), encode(&[&b"BLPOP"[..], b"q", b"9.500"]));
    let read = |millis: &'static [u8]| [&b"XREAD"[..], b"BLOCK", millis, b"STREAMS", b"s", b"$"];
    assert_eq!(left(&read(b"12000")).unwrap(), encode(&read(b"9500")));
    assert_eq!(left(&[b"BLPOP", b"q", b"0"]).unwrap(), encode(&[&b"BLPOP"[..], b"q", b"0"]));
    assert_eq!(left(&[b"BLPOP", b"q", b"2.5"]), None);
}

#[test]
fn what_the_last_arguments_of_a_large_request_make_of_it_counts() {
    let read: Vec<&[u8]> =
        [&b"BITFIELD"[..], b"k"].into_iter().chain([&b"GET"[..], b"u8", b"0"].repeat(2000)).collect();
    let written = [&read[..], &[b"INCRBY", b"u32", b"64", b"1"]].concat();
    let now = Instant::now();
    for (args, class) in [(&read, Class::Read), (&written, Class::Write)] {
        let request = encode(args);
        for keep in [true, false] {
            let mut ledger = Ledger::default();
            let (head, rest) = request.split_at(20_000);
            ledger.push(Asked { whole: false, ..Asked::new(classify_head(head)) }, head, now);
            assert_eq!(ledger.expected().unwrap().0.class, Class::Write, "until the rest is known");
            ledger.extend_last(rest, true, keep, now);
            let known = if keep { class } else { Class::Write };
            assert_eq!(ledger.expected().unwrap().0.class, known);
        }
    }
}

#[test]
fn what_was_said_in_time_is_released_up_to_the_first_that_was_not() {
    let (now, incr) = (Instant::now(), &b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n"[..]);
    let until = now + std::time::Duration::from_secs(1);
    for (at, refused) in [(until, false), (now, true)] {
        let mut ledger = Ledger::default();
        for (reply, at, refused) in [(&b":1\r\n"[..], now, false), (b":2\r\n", at, refused), (b":3\r\n", now, false)] {
            ledger.push(Asked::new(classify(incr)), incr, now);
            ledger.withhold(reply, at, refused);
        }
        ledger.release(Some(until));
        assert!(matches!(ledger.take_front(), Some(Delivery::Reply { reply, .. }) if reply == b":1\r\n"));
        assert!(ledger.take_front().is_none());
    }
}

#[test]
fn confirmed_subscriptions_are_not_asked_for_again_behind_a_refusal() {
    let (mut ledger, now) = (Ledger::default(), Instant::now());
    let incr = &b"*2\r\n$4\r\nINCR\r\n$1\r\na\r\n"[..];
    let subscribe = b"*3\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n$1\r\nb\r\n";
    ledger.push(Asked::new(classify(incr)), incr, now);
    ledger.push(Asked::new(classify(subscribe)), subscribe, now);
    ledger.owe(2);
    ledger.withhold(b"-READONLY You can't write against a read only replica.\r\n", now, true);
    ledger.withhold_one(b"(a)", now, || 0);
    ledger.withhold_one(b"(b)", now, || 0);
    assert_eq!(ledger.judge(judgement(now)).again, incr);
    ledger.settle();
    assert!(matches!(ledger.take_front(), Some(Delivery::Reply { reply, .. }) if reply == b"(a)(b)"));
}

#[test]
fn a_pop_that_timed_out_during_the_hold_has_changed_nothing() {
    for (reply, delivered) in [(&b"*-1\r\n"[..], true), (b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n", false)] {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let request = b"*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n1\r\n";
        ledger.push(Asked::new(classify(request)), request, now);
        ledger.withhold(reply, now, false);
        ledger.judge(judgement(now));
        assert_eq!(matches!(ledger.take_front(), Some(Delivery::Reply { .. })), delivered);
    }
}

/// Answered by the old master or not: the new one has not run it.
#[test]
fn what_was_sent_after_the_histories_parted_is_sent_again() {
    let now = Instant::now();
    let incr = encode(&[b"INCR", b"a"]);
    let publish = encode(&[b"PUBLISH", b"a", b"b"]);
    let parted = Judgement { diverged_from: Some(7), ..judgement(now) };
    for answered in [false, true] {
        for (request, sent_after, again) in
            [(&incr, 6, false), (&incr, 7, true), (&incr, 9, true), (&publish, 9, false)]
        {
            let mut ledger = Ledger::default();
            ledger.push(Asked::new(classify(request)), request, now);
            ledger.sent_after(sent_after);
            if answered {
                ledger.withhold(b":1\r\n", now, false);
            }
            let verdict = ledger.judge(parted);
            assert_eq!((verdict.again == **request, verdict.lost == 0), (again, again), "{sent_after} {answered}");
        }
    }
}

#[test]
fn of_many_in_flight_each_has_its_own_time() {
    let now = Instant::now();
    let requests: Vec<Vec<u8>> = (0..4).map(|n: u8| encode(&[b"INCR", &[b'a' + n]])).collect();
    let mut ledger = Ledger::default();
    for (at, request) in requests.iter().enumerate() {
        ledger.push_run(request, 1);
        ledger.sent_after(if at < 2 { 6 } else { 7 });
    }
    let verdict = ledger.judge(Judgement { diverged_from: Some(7), ..judgement(now) });
    // The third was noted behind those of before, and counts as they do.
    assert_eq!((verdict.again, verdict.lost), (requests[3].clone(), 3));
}

#[test]
fn an_exec_of_after_the_histories_parted_is_sent_again_unless_it_published() {
    let now = Instant::now();
    let requests: Vec<Vec<u8>> =
        [vec![&b"MULTI"[..]], vec![b"INCR", b"a"], vec![b"EXEC"]].iter().map(|args| encode(args)).collect();
    let parted = Judgement { diverged_from: Some(7), ..judgement(now) };
    for (delivered, again) in [(true, true), (false, false)] {
        let mut ledger = Ledger::default();
        for (at, request) in requests.iter().enumerate() {
            ledger.push(Asked { queued: at == 1, ..Asked::new(classify(request)) }, request, now);
        }
        ledger.sent_after(8);
        let verdict = ledger.judge(Judgement { queue_stays_in_data_set: delivered, ..parted });
        assert_eq!(verdict.again == requests.concat(), again);
    }
    let publish = encode(&[b"PUBLISH", b"a", b"b"]);
    let mut ledger = Ledger::default();
    for (at, request) in [&requests[0], &publish, &requests[2]].into_iter().enumerate() {
        ledger.push(Asked { queued: at == 1, ..Asked::new(classify(request)) }, request, now);
    }
    ledger.sent_after(8);
    assert_eq!(ledger.judge(parted).lost, 1);
}

/// An early commit that is undone leads back to the master that may have run it.
#[test]
fn what_was_left_behind_is_not_run_again_by_the_master_that_was_left() {
    let now = Instant::now();
    let incr = encode(&[b"INCR", b"a"]);
    let heir = Judgement { diverged_from: Some(7), ..judgement(now) };
    for (next, lost) in [(Judgement { diverged_from: Some(9), ..heir }, 0), (judgement(now), 1)] {
        let mut ledger = Ledger::default();
        ledger.push(Asked::new(classify(&incr)), &incr, now);
        ledger.sent_after(8);
        assert_eq!(ledger.judge(heir).again, incr);
        let unsent = Judgement { unsent: incr.len() as u64, ..next };
        assert_eq!(ledger.judge(unsent).lost, lost);
    }
    let mut ledger = Ledger::default();
    ledger.push(Asked::new(classify(&incr)), &incr, now);
    ledger.sent_after(8);
    ledger.judge(heir);
    assert_eq!(
        ledger.fail(b"-E\r\n", OnLostReply::Error, OnLostPop::Resend, incr.len() as u64, false),
        1,
        "nobody knows"
    );
}

#[test]
fn a_pop_whose_master_died_ends_as_the_user_chose() {
    use OnLostPop::{Close, Error, Resend};
    let now = Instant::now();
    let [blpop, blmove, xread] = [
        &[&b"BLPOP"[..], b"q", b"0"][..],
        &[b"BLMOVE", b"q", b"p", b"LEFT", b"LEFT", b"0"],
        &[b"XREAD", b"BLOCK", b"0", b"STREAMS", b"s", b"$"],
    ]
    .map(encode);
    for (request, on_lost_pop, ending) in [
        (&blpop, Resend, None),
        (&blpop, Error, Some("Close(LostReply)")),
        (&blpop, Close, Some("Close(LostReply)")),
        (&blmove, Error, Some("Reply")),
        (&blmove, Close, Some("Close(LostReply)")),
        (&xread, Close, None),
    ] {
        let sent = |policy: Judgement| {
            let mut ledger = Ledger::default();
            ledger.push(Asked::new(classify(request)), request, now);
            ledger.sent_after(8);
            let again = ledger.judge(policy).again == *request;
            (again, ledger.take_front().map(|front| format!("{front:?}")))
        };
        let policy = Judgement { on_lost_pop, ..judgement(now) };
        let (again, front) = sent(policy);
        assert_eq!(again, ending.is_none(), "{on_lost_pop:?}");
        assert_eq!(
            front.as_deref().map(|front| ending.is_some_and(|ending| front.starts_with(ending))),
            ending.map(|_| true)
        );
        // It still waits on a master that lives, and what the new one surely lacks has popped nothing there.
        assert!(sent(Judgement { replicated_until: Some(now), ..policy }).0);
        let dead = Judgement { replicated_until: Some(now), is_connected: false, ..policy };
        assert_eq!(sent(dead).0, ending.is_none());
        assert!(sent(Judgement { diverged_from: Some(7), ..policy }).0);
        let mut ledger = Ledger::default();
        ledger.push(Asked::new(classify(request)), request, now);
        assert_eq!(ledger.fail(b"-E\r\n", OnLostReply::Error, on_lost_pop, 0, false), u64::from(ending.is_some()));
    }
}

#[test]
fn in_an_outage_each_request_ends_in_the_way_its_client_reads() {
    let ended = |args: &[&[u8]], unsent: bool| {
        let request = encode(args);
        let mut ledger = Ledger::default();
        ledger.push(Asked::new(classify(&request)), &request, Instant::now());
        let unsent = if unsent { request.len() as u64 } else { 0 };
        ledger.fail(b"-E\r\n", OnLostReply::Error, OnLostPop::Resend, unsent, false);
        match ledger.take_front().expect("it ends") {
            Delivery::Reply { reply, .. } => String::from_utf8(reply).unwrap(),
            Delivery::Close(reason) => reason.name().to_owned(),
        }
    };
    for args in [&[&b"HELLO"[..], b"2", b"AUTH", b"u", b"p"][..], &[b"AUTH", b"p"], &[b"SELECT", b"1"], &[b"GET", b"a"]]
    {
        assert_eq!(ended(args, true), "-E\r\n");
    }
    assert_eq!(ended(&[b"QUIT"], true), "+OK\r\n");
    assert_eq!(ended(&[b"LRANGE", b"l", b"0", b"1"], true), "outage");
    assert_eq!(ended(&[b"SPOP", b"s", b"2"], true), "outage", "it was not sent");
    assert_eq!(ended(&[b"SPOP", b"s", b"2"], false), "lost_reply");
    assert_eq!(ended(&[b"BLPOP", b"q", b"1"], true), "outage");
    assert_eq!(ended(&[b"BLPOP", b"q", b"1"], false), "*-1\r\n");
}

#[test]
fn an_error_of_ours_has_no_word_at_which_clients_retry() {
    assert_eq!(
        no_master("no master for 15 s: 10.0.0.1 refuses"),
        b"-MASTERDOWN switchmaster: no master for 15 s: 10.0.0.1 refuses\r\n"
    );
    for reason in ["Connection reset by peer (os error 104)", "10.0.0.1 says READONLY", "two\r\nlines"] {
        assert_eq!(no_master(reason), b"-MASTERDOWN switchmaster: no master\r\n");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Run(usize),
    Settle(usize),
    Withhold,
    Release,
    TakeFront,
    Trim,
    Judge,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Push),
        4 => (1..5usize).prop_map(Step::Run),
        4 => (1..4usize).prop_map(Step::Settle),
        1 => Just(Step::Withhold),
        1 => Just(Step::Release),
        1 => Just(Step::TakeFront),
        1 => Just(Step::Trim),
        1 => Just(Step::Judge),
        1 => Just(Step::Fail),
    ]
}

proptest! {
    #[test]
    fn a_run_is_what_its_requests_would_be_one_by_one(steps in prop::collection::vec(step(), 0..30)) {
        let (mut counted, mut spelt) = (Ledger::default(), Ledger::default());
        let now = Instant::now();
        for (number, step) in steps.into_iter().enumerate() {
            let request = |kind: usize| {
                let name: &[u8] = [&b"GET"[..], b"SET", b"INCR"][kind % 3];
                encode(&[name, number.to_string().as_bytes(), kind.to_string().as_bytes()])
            };
            match step {
                Step::Push => {
                    let select = encode(&[b"SELECT", b"1"]);
                    counted.push(Asked::new(classify(&select)), &select, now);
                    spelt.push(Asked::new(classify(&select)), &select, now);
                }
                Step::Run(requests) => {
                    let requests: Vec<Vec<u8>> = (0..requests).map(request).collect();
                    counted.push_run(&requests.concat(), requests.len());
                    requests.iter().for_each(|request| spelt.push(Asked::new(classify(request)), request, now));
                }
                Step::Settle(_) if counted.has_answers() => {}
                Step::Settle(most) => {
                    let ordinary = counted.ordinary().min(most);
                    match ordinary {
                        0 => counted.settle(),
                        _ => counted.settle_ordinary(ordinary),
                    }
                    (0..ordinary.max(1)).for_each(|_| spelt.settle());
                }
                Step::Withhold => [&mut counted, &mut spelt].into_iter().for_each(|it| it.withhold(b"+OK\r\n", now, false)),
                Step::Release => [&mut counted, &mut spelt].into_iter().for_each(|ledger| ledger.release(None)),
                Step::TakeFront => {
                    prop_assert_eq!(format!("{:?}", counted.take_front()), format!("{:?}", spelt.take_front()));
                }
                Step::Trim => counted.trim(),
                Step::Judge => {
                    let [a, b] = [&mut counted, &mut spelt].map(|it| it.judge(judgement(now)));
                    prop_assert_eq!((a.again, a.replayed, a.lost), (b.again, b.replayed, b.lost));
                }
                Step::Fail => {
                    let [a, b] = [&mut counted, &mut spelt].map(|it| it.fail(b"-E\r\n", OnLostReply::Error, OnLostPop::Resend, 0, false));
                    prop_assert_eq!(a, b);
                }
            }
            prop_assert_eq!((counted.len(), counted.is_empty()), (spelt.len(), spelt.is_empty()));
            prop_assert_eq!((counted.has_answers(), counted.awaits_backend()), (spelt.has_answers(), spelt.awaits_backend()));
        }
        prop_assert_eq!(counted.expected(), spelt.expected());
        prop_assert_eq!((counted.front_request(), counted.retained()), (spelt.front_request(), spelt.retained()));
        drop((counted, spelt));
        prop_assert_eq!(Ledger::retained_by_thread(), 0);
    }
}
