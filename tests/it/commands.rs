//! The table of commands and the scanners against a real redis-server.
//!
//! A command that a newer server adds, or whose flags change, fails here until it has its line.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};
use switchmaster::resp::command::{Class, classify, lookup};
use switchmaster::resp::request::{Args, encode, expects_reply};
use switchmaster::resp::scanner::{ReplyScanner, RequestScanner, Scan};

/// `readonly` for the server, but not `Read` in our table, each with its reason.
const READONLY_BUT_NOT_READ: &[(&str, &str)] = &[("XREAD", "may block; a request without BLOCK is a read")];

/// `blocking` for the server, but not `Blocking` in our table, each with its reason.
const BLOCKING_BUT_NOT_BLOCKING: &[(&str, &str)] = &[
    ("WAIT", "answers for the node and connection that wrote"),
    ("WAITAOF", "answers for the node and connection that wrote"),
];

#[test]
fn the_table_agrees_with_the_server() {
    let server = Server::start();
    let mut connection = server.connect();
    let flags = command_flags(&parse(&mut &connection.ask(&[&[b"COMMAND"]])[..]));
    assert!(flags.len() > 300, "only {} commands", flags.len());
    let mut wrong = Vec::new();
    for (name, flags) in &flags {
        let words: Vec<_> = name.split('|').map(str::as_bytes).collect();
        let effect = classify(&encode(&words));
        let command = match words.len() {
            1 => lookup(words[0]),
            _ => effect.command,
        };
        if !command.name.eq_ignore_ascii_case(name) {
            wrong.push(format!("{name} {flags:?} has no line in the table"));
            continue;
        }
        let has = |flag: &str| flags.iter().any(|own| own == flag);
        let listed = |list: &[(&str, &str)]| list.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let class = command.class;
        if has("write") && class == Class::Read {
            wrong.push(format!("{name} writes, and the table has {class:?}"));
        }
        if has("readonly") && class != Class::Read && !listed(READONLY_BUT_NOT_READ) {
            wrong.push(format!("{name} reads, and the table has {class:?}"));
        }
        if has("blocking") != (class == Class::Blocking) && !listed(BLOCKING_BUT_NOT_BLOCKING) {
            wrong.push(format!("{name} {flags:?}, and the table has {class:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn replies_of_a_real_server_end_where_it_ends_them() {
    let server = Server::start();
    let filling: &[&[&[u8]]] = &[
        &[b"HSET", b"hash", b"a", b"1\r\n", b"b", b"", b"c", b"$5\r\n*1\r\n"],
        &[b"ZADD", b"zset", b"1", b"one", b"2.5", b"two", b"inf", b"top"],
        &[b"SADD", b"set", b"x", b"y", b"z"],
        &[b"RPUSH", b"list", b"1", b"2", b"3"],
        &[b"XADD", b"stream", b"1-1", b"field", b"value"],
        &[b"XADD", b"stream", b"1-2", b"field", b"\r\n"],
    ];
    let asking: &[&[&[u8]]] = &[
        &[b"PING"],
        &[b"GET", b"hash"],
        &[b"GET", b"nothing"],
        &[b"HGETALL", b"hash"],
        &[b"HGETALL", b"nothing"],
        &[b"HRANDFIELD", b"hash", b"3", b"WITHVALUES"],
        &[b"SMEMBERS", b"set"],
        &[b"ZSCORE", b"zset", b"two"],
        &[b"ZRANGE", b"zset", b"0", b"-1", b"WITHSCORES"],
        &[b"XRANGE", b"stream", b"-", b"+"],
        &[b"XREAD", b"STREAMS", b"stream", b"0"],
        &[b"XINFO", b"STREAM", b"stream", b"FULL"],
        &[b"BLPOP", b"nothing", b"0.01"],
        &[b"EVAL", b"return {1, 'a', {ok='fine'}, {err='no'}, {}, false}", b"0"],
        &[b"DEBUG", b"PROTOCOL", b"string"],
        &[b"DEBUG", b"PROTOCOL", b"integer"],
        &[b"DEBUG", b"PROTOCOL", b"double"],
        &[b"DEBUG", b"PROTOCOL", b"null"],
        &[b"DEBUG", b"PROTOCOL", b"array"],
        &[b"DEBUG", b"PROTOCOL", b"set"],
        &[b"DEBUG", b"PROTOCOL", b"map"],
        &[b"DEBUG", b"PROTOCOL", b"attrib"],
        &[b"DEBUG", b"PROTOCOL", b"bignum"],
        &[b"DEBUG", b"PROTOCOL", b"verbatim"],
        &[b"DEBUG", b"PROTOCOL", b"true"],
        &[b"DEBUG", b"PROTOCOL", b"false"],
        &[b"COMMAND", b"DOCS", b"SET", b"GETEX"],
        &[b"COMMAND", b"INFO", b"GET", b"NOSUCH"],
        &[b"CLIENT", b"TRACKINGINFO"],
        &[b"INFO"],
    ];
    for version in [&b"2"[..], b"3"] {
        let mut connection = server.connect();
        connection.ask(&[&[b"FLUSHALL"]]);
        connection.ask(filling);
        let mut replies = vec![connection.ask(&[&[b"HELLO", version]])];
        // One by one, so that where each reply ends is told by the server's silence after it.
        replies.extend(asking.iter().map(|request| connection.ask(&[request])));
        let transaction = connection.ask(&[
            &[b"MULTI"],
            &[b"LRANGE", b"list", b"0", b"-1"],
            &[b"INCR", b"list"],
            &[b"HGETALL", b"hash"],
            &[b"EXEC"],
        ]);
        let queued = b"+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n";
        replies.push(transaction.strip_prefix(queued).unwrap().to_vec());
        if version == b"3" {
            let both = connection.ask(&[&[b"DEBUG", b"PROTOCOL", b"push"]]);
            let push = b">2\r\n$16\r\nserver-cpu-usage\r\n:42\r\n";
            // From 7.2 on a push waits until the command that caused it has been answered.
            match both.strip_prefix(push) {
                Some(reply) => replies.extend([push.to_vec(), reply.to_vec()]),
                None => replies.extend([both.strip_suffix(push).unwrap().to_vec(), push.to_vec()]),
            }
            let attribute = replies.iter().find(|reply| reply[0] == b'|').unwrap();
            let mut scanner = ReplyScanner::default();
            assert_eq!(scanner.scan(attribute), Scan::Frame(attribute.len()));
            assert_eq!(scanner.kind(), b'$');
        }
        let all = replies.concat();
        let mut sum = 0;
        let known: Vec<usize> = replies
            .iter()
            .map(|reply| {
                sum += reply.len();
                sum
            })
            .collect();
        for split in 0..=all.len() {
            assert_eq!(frame_ends(&[&all[..split], &all[split..]]), known, "at {split}");
        }
        assert_eq!(frame_ends(&all.chunks(1).collect::<Vec<_>>()), known);
    }
}

#[test]
fn large_replies_of_a_real_server_end_where_it_ends_them() {
    let server = Server::start();
    for version in [&b"2"[..], b"3"] {
        let mut connection = server.connect();
        connection.ask(&[&[b"HELLO", version]]);
        for request in [&[&b"COMMAND"[..], b"DOCS"][..], &[b"COMMAND"]] {
            let reply = connection.ask(&[request]);
            assert!(reply.len() > 30_000);
            for size in [1, 2, 3, 7, 1000, 16 * 1024, reply.len()] {
                let pieces: Vec<_> = reply.chunks(size).collect();
                assert_eq!(frame_ends(&pieces), [reply.len()], "pieces of {size}");
            }
        }
    }
}

/// What the server answers tells how many requests it saw and whether it found one wrong.
#[test]
fn requests_end_where_a_real_server_ends_them() {
    let server = Server::start();
    for bytes in [
        &b"PING\r\n"[..],
        b"PING\n",
        b"  PING  \r\n",
        b"\r\n\r\n\n",
        b"   \r\n",
        b"ECHO \"a\\x41\\n\"\r\n",
        b"ECHO 'it\\'s'\r\n",
        b"ECHO \"a\"b\r\n",
        b"ECHO \"a\r\n",
        b"ECHO pre\"fix\"\r\n",
        b"ECHO \"\"\r\n",
        b"*0\r\n*-1\r\n*-5\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"*1\rx$4\rxPINGxx",
        b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n",
        b"*2\r\n$4\r\nECHO\r\n$12\r\n$5\r\n*1\r\n$4\r\n\r\n",
        b"*01\r\n$4\r\nPING\r\n",
        b"*+1\r\n$4\r\nPING\r\n",
        b"*-0\r\n",
        b"*\r\n",
        b"*x\r\n",
        b"*2147483648\r\n",
        b"*99999999999999999999\r\n",
        b"*-9223372036854775808\r\n",
        b"*-9223372036854775809\r\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$536870913\r\n",
    ] {
        assert!(agrees(&server, bytes), "{}", bytes.escape_ascii());
    }
}

/// The same for the fuzz targets' seeds, and for many inputs that differ from them by a little.
#[test]
fn requests_of_the_fuzz_seeds_end_where_a_real_server_ends_them() {
    let server = Server::start();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/scanner");
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|name| name.is_file());
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut compared, mut inputs) = (0, Vec::new());
    for name in names {
        // The first byte chooses how the fuzz target cuts the rest.
        let seed = std::fs::read(name).unwrap()[1..].to_vec();
        let blocks = seed.windows(5).any(|word| word == b"BLPOP" || word == b"XREAD");
        for _ in 0..if blocks { 0 } else { 40 } {
            let mut near = seed.clone();
            for _ in 0..=random(2) {
                let at = random(near.len());
                match random(4) {
                    0 => near[at] = b"\r\n$*-019 \"'\\x"[random(13)],
                    1 => drop(near.remove(at)),
                    2 => near.insert(at, near[at]),
                    _ => near.truncate(at + 1),
                }
                if near.is_empty() {
                    break;
                }
            }
            inputs.push(near);
        }
        inputs.push(seed);
    }
    // Valkey 8.1 takes what follows an inline line of nothing but blanks for inline too, `*1` for a command's name.
    let info = server.connect().ask(&[&[b"INFO", b"server"]]);
    let is_valkey = info.windows(15).any(|word| word == b"valkey_version:");
    let has_blank_line = |mut input: &[u8]| {
        let mut scanner = RequestScanner::default();
        while let Scan::Frame(used) = scanner.scan(input) {
            if input[..used].contains(&b' ') && input[..used].trim_ascii().is_empty() {
                return true;
            }
            input = &input[used..];
        }
        false
    };
    for input in inputs.iter().filter(|input| !(is_valkey && has_blank_line(input))) {
        compared += usize::from(agrees(&server, input));
    }
    assert!(compared > 300, "{compared}");
}

/// Whether a real server finds as many requests in these bytes as the scanner does, and finds fault where it does.
/// False if that cannot be seen: they end within a request, or hold a NUL, which hides the end of a line.
fn agrees(server: &Server, bytes: &[u8]) -> bool {
    let shown = bytes.escape_ascii();
    let mut scanner = RequestScanner::default();
    let (mut rest, mut owed, mut broken) = (bytes, 0, false);
    while !broken {
        match scanner.scan(rest) {
            Scan::Frame(used) => {
                let request = &rest[..used];
                // Unbalanced quotes: the server answers with an error and closes.
                broken |= expects_reply(request) && Args::new(request).next().is_none();
                owed += usize::from(expects_reply(request));
                rest = &rest[used..];
            }
            Scan::Partial if scanner.at_boundary() => break,
            Scan::Partial => return false,
            Scan::Invalid(_) => (broken, owed) = (true, owed + 1),
        }
    }
    if bytes.contains(&0) {
        return false;
    }
    let mut connection = server.connect();
    connection.stream.write_all(bytes).unwrap();
    // A marker ends what is read, unless the server closed before.
    let _ = connection.stream.write_all(MARKER);
    let (answer, closed) = connection.read_to_marker();
    assert_eq!(closed, broken, "{shown}: {}", answer.escape_ascii());
    assert_eq!(frame_ends(&[&answer]).len(), owed, "{shown}: {}", answer.escape_ascii());
    true
}

/// The ends of the replies in these pieces, as offsets in the whole.
fn frame_ends(pieces: &[&[u8]]) -> Vec<usize> {
    let (mut scanner, mut base, mut found) = (ReplyScanner::default(), 0, Vec::new());
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match scanner.scan(rest) {
                Scan::Frame(used) => {
                    base += used;
                    found.push(base);
                    rest = &rest[used..];
                }
                Scan::Partial => break base += rest.len(),
                Scan::Invalid(why) => panic!("{why} in {}", rest.escape_ascii()),
            }
        }
    }
    assert!(scanner.at_boundary());
    found
}

/// A RESP2 reply, read by other means than the scanner's.
enum Value {
    Text(String),
    List(Vec<Value>),
}

fn parse(bytes: &mut &[u8]) -> Value {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
    let (line, rest) = (String::from_utf8(bytes[1..end].to_vec()).unwrap(), &bytes[end + 2..]);
    let kind = bytes[0];
    *bytes = rest;
    match kind {
        b'*' => Value::List((0..line.parse().unwrap()).map(|_| parse(bytes)).collect()),
        b'$' => {
            let (body, rest) = rest.split_at(line.parse().unwrap());
            *bytes = &rest[2..];
            Value::Text(String::from_utf8(body.to_vec()).unwrap())
        }
        _ => Value::Text(line),
    }
}

/// Name and flags of each command and subcommand in the reply to COMMAND.
fn command_flags(commands: &Value) -> Vec<(String, Vec<String>)> {
    let Value::List(commands) = commands else {
        panic!("COMMAND does not answer with a list");
    };
    let mut found = Vec::new();
    for command in commands {
        let Value::List(fields) = command else {
            panic!("a command that is no list");
        };
        let (Value::Text(name), Value::List(flags)) = (&fields[0], &fields[2]) else {
            panic!("a command without name or flags");
        };
        let text = |flag: &Value| match flag {
            Value::Text(flag) => flag.clone(),
            Value::List(_) => panic!("a flag that is a list"),
        };
        found.push((name.clone(), flags.iter().map(text).collect()));
        // Subcommands are the tenth field from Redis 7.0 on.
        if let Some(subcommands) = fields.get(9) {
            found.extend(command_flags(subcommands));
        }
    }
    found
}

/// Sent after what a test is about: where its reply begins, what was asked for ends.
const MARKER: &[u8] = b"ECHO marker\r\n";

/// A redis-server of our own on a free port, ended with the test.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start() -> Server {
        let program = std::env::var("REDIS_SERVER").unwrap_or("redis-server".into());
        // Between our asking for a free port and the server's taking it another may: try again.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let process = Process::new(&program)
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--enable-debug-command", "yes"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}; install it or set REDIS_SERVER"));
            let mut server = Server { process, port };
            if server.is_up() {
                return server;
            }
        }
        panic!("{program} does not start");
    }

    fn is_up(&mut self) -> bool {
        let limit = Instant::now() + Duration::from_secs(20);
        while Instant::now() < limit && self.process.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Connection { stream }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// The raw replies to these requests. They end where the reply to an ECHO sent later begins,
    /// so nothing of ours decides where.
    fn ask(&mut self, requests: &[&[&[u8]]]) -> Vec<u8> {
        for request in requests {
            self.stream.write_all(&encode(request)).unwrap();
        }
        self.stream.write_all(MARKER).unwrap();
        let (answer, closed) = self.read_to_marker();
        assert!(!closed);
        answer
    }

    /// All bytes before the marker's reply, and whether the server closed instead.
    fn read_to_marker(&mut self) -> (Vec<u8>, bool) {
        let end = b"$6\r\nmarker\r\n";
        let mut answer = Vec::new();
        let mut scratch = [0; 64 * 1024];
        while !answer.ends_with(end) {
            match self.stream.read(&mut scratch) {
                Ok(0) => return (answer, true),
                Ok(count) => answer.extend_from_slice(&scratch[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return (answer, true);
                }
                Err(error) => panic!("{error} after {}", answer.escape_ascii()),
            }
        }
        answer.truncate(answer.len() - end.len());
        (answer, false)
    }
}
