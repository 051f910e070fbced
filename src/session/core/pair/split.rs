//! The same bytes through every split: the client hears the same, and the server does the same.

use super::stage::{Stage, words};

/// What a client says, in one connection each.
const CORPUS: &[&[&str]] = &[
    &["SET k v", "GET k", "INCR n", "LRANGE none 0 -1", "ECHO end"],
    &["MULTI", "INCR n", "SELECT 2", "SET k v", "EXEC", "GET k"],
    &["WATCH k", "MULTI", "SET k 1", "EXEC", "MULTI", "NOPE", "EXEC", "DISCARD"],
    &["HELLO 3", "SUBSCRIBE a b", "PUBLISH a x", "GET none", "UNSUBSCRIBE", "HELLO 2", "GET none"],
    &["SUBSCRIBE a", "PING", "PSUBSCRIBE p*", "UNSUBSCRIBE", "PUNSUBSCRIBE p*", "PING"],
    &["CLIENT REPLY SKIP", "SET k v", "GET k", "CLIENT REPLY OFF", "SET k w", "CLIENT REPLY ON", "GET k"],
    &["AUTH app wrong", "AUTH app app-secret", "ACL WHOAMI", "RESET", "ACL WHOAMI", "SELECT 99"],
    &["RPUSH l a b", "BLPOP l 0", "BLPOP l 0", "BLPOP l 0.1", "ECHO behind"],
    &[
        "EVAL return(redis.call('rpush',KEYS[1],ARGV[1])) 1 l x",
        "EVAL return(redis.error_reply('READONLY mine')) 0",
        "WAIT 0 0",
    ],
    &["HELLO 3", "CLIENT TRACKING ON", "GET k", "SET k v", "GET k", "CLIENT TRACKING OFF"],
    &["GET k", "QUIT", "INCR never"],
];

fn stage() -> Stage {
    let mut stage = Stage::new(1, std::time::Duration::from_millis(1));
    for server in &mut stage.world.servers {
        server.users.insert("app".into(), b"app-secret".to_vec());
    }
    stage
}

/// Everything that can be seen from outside.
fn seen(stage: &mut Stage, client: usize) -> (String, String, String) {
    stage.run(1000);
    let session = &stage.sessions[client];
    let state = session.link.as_ref().and_then(|link| stage.world.servers[link.node].state_of(link.id));
    let history: Vec<String> = stage.world.servers[0]
        .history
        .iter()
        .flat_map(|write| &write.requests)
        .map(|request| request.escape_ascii().to_string())
        .collect();
    let heard = session.client.heard.escape_ascii().to_string();
    (heard, history.join("; "), format!("{state:?} {:?}", session.ended))
}

fn requests(of: &[&str]) -> Vec<u8> {
    of.iter().flat_map(|request| words(request)).collect()
}

#[test]
fn requests_cut_anywhere_are_the_same_requests() {
    for case in CORPUS {
        let bytes = requests(case);
        let mut whole = None;
        for cut in 0..bytes.len() {
            let mut stage = stage();
            let client = stage.open();
            stage.send(client, &bytes[..cut]);
            stage.send(client, &bytes[cut..]);
            let seen = seen(&mut stage, client);
            assert_eq!(whole.get_or_insert_with(|| seen.clone()), &seen, "{case:?} cut at {cut}");
        }
    }
}

#[test]
fn replies_cut_anywhere_are_the_same_replies() {
    for case in CORPUS {
        let bytes = requests(case);
        let mut whole = None;
        for cut in 0..usize::MAX {
            let mut stage = stage();
            let client = stage.open();
            stage.sessions[client].limit_down(cut);
            stage.send(client, &bytes);
            stage.sessions[client].limit_down(usize::MAX);
            let seen = seen(&mut stage, client);
            let is_over = cut > stage.sessions[client].read_down;
            assert_eq!(whole.get_or_insert_with(|| seen.clone()), &seen, "{case:?} cut at {cut}");
            if is_over {
                break;
            }
        }
    }
}

/// Each byte of a request and each of its reply by itself, while a planned failover goes on.
#[test]
fn a_failover_at_every_byte_is_not_seen() {
    use super::world::Act;
    for case in CORPUS {
        let bytes = requests(case);
        let mut whole = None;
        for cut in 0..bytes.len() {
            let mut stage = stage();
            let client = stage.open();
            stage.send(client, &bytes[..cut]);
            stage.world.play([(1, Act::Hold), (20, Act::Promote(1)), (25, Act::Commit { node: 1, provisional: true })]);
            stage.run(30);
            let unasked = stage.sessions[client].client.heard.windows(12).any(|part| part == b"invalidate\r\n");
            stage.send(client, &bytes[cut..]);
            stage.run(1000);
            let heard = stage.sessions[client].client.heard.escape_ascii().to_string();
            // A lost WATCH is nil, a cache is flushed: what the contract says of them is played there.
            if case.iter().any(|request| {
                request.starts_with("WATCH") || request.contains("TRACKING") || request.starts_with("WAIT")
            }) {
                continue;
            }
            assert!(!unasked);
            assert_eq!(whole.get_or_insert_with(|| heard.clone()), &heard, "{case:?} cut at {cut}");
        }
    }
}
