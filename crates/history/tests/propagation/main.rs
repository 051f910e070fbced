//! The table of forms is true: every write command is run on a real server, and its replication stream is read.
//!
//! `forms.txt` has samples and what they left on the servers that were measured (Redis 7.0 and 8.0, Valkey 8.1). The server
//! that is installed here must leave one of these, and whatever it leaves the form of the request must find. Each write
//! command that it knows has a sample. `HISTORY_FORMS=write` adds what is new to the file.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use switchmaster_history::form::{self, Form};
use switchmaster_protocol::binary::Binary;
use switchmaster_protocol::resp::request::{Args, encode};

const FORMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/propagation/forms.txt");
/// Around the effects of a sample.
const MARK: &str = "the-mark-around-a-sample";
const LIMIT: Duration = Duration::from_secs(20);
/// Write commands without a sample: on their way between nodes of a cluster, or inside a module.
const WITHOUT: &[&str] =
    &["restore-asking", "migrate", "pfdebug", "function|delete", "function|flush", "function|load", "function|restore"];

type Effect = Vec<Vec<u8>>;

/// One connection.
struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply, as far as the test looks at it.
#[derive(Debug)]
enum Reply {
    Text(Vec<u8>),
    Error(String),
    List(Vec<Reply>),
}

impl Client {
    fn new(port: u16) -> Client {
        let started = Instant::now();
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LIMIT)).unwrap();
                    return Client { reader: BufReader::new(stream) };
                }
                Err(error) => assert!(started.elapsed() < LIMIT, "no server at {port}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&mut self, args: &[Vec<u8>]) {
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        self.reader.get_mut().write_all(&encode(&args)).unwrap();
    }

    fn ask(&mut self, args: &[Vec<u8>]) -> Reply {
        self.send(args);
        self.reply()
    }

    fn words(&mut self, line: &str) -> Reply {
        self.ask(&words(line))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn body(&mut self, size: usize) -> Vec<u8> {
        let mut body = vec![0; size];
        self.reader.read_exact(&mut body).unwrap();
        body
    }

    fn reply(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        match kind {
            "-" => Reply::Error(rest.to_owned()),
            "$" => {
                let Ok(size) = rest.parse() else { return Reply::Text(Vec::new()) };
                let body = self.body(size);
                self.body(2);
                Reply::Text(body)
            }
            "*" => Reply::List((0..rest.parse().unwrap_or(0)).map(|_| self.reply()).collect()),
            _ => Reply::Text(rest.as_bytes().to_vec()),
        }
    }

    /// Becomes a replica: what follows is the stream.
    fn follow(port: u16) -> Client {
        let mut client = Client::new(port);
        client.words("PSYNC ? -1");
        loop {
            // Newlines come while the RDB is made.
            if let Some(size) = client.line().strip_prefix('$') {
                client.body(size.parse().unwrap());
                return client;
            }
        }
    }

    fn effect(&mut self) -> Effect {
        let Reply::List(args) = self.reply() else { panic!("no command") };
        let text = |arg| match arg {
            Reply::Text(text) => text,
            other => panic!("{other:?}"),
        };
        args.into_iter().map(text).collect()
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

struct Redis {
    child: Child,
    folder: std::path::PathBuf,
    port: u16,
}

impl Redis {
    fn start() -> Redis {
        let binary = Binary::redis_server().unwrap_or_else(|missing| panic!("{missing}"));
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("switchmaster-forms-{port}"));
        fs::create_dir_all(&folder).unwrap();
        let config = folder.join("redis.conf");
        let dir = folder.display();
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {dir}\nsave \"\"\nrepl-diskless-sync no\nrepl-ping-replica-period 3600\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary.program());
        command.arg(&config).args(binary.arguments()).stdin(Stdio::null()).stdout(Stdio::null());
        Redis { child: command.spawn().unwrap(), folder, port }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// One line of the file.
struct Sample<'a> {
    setup: Vec<&'a str>,
    command: &'a str,
    other: Option<&'a str>,
}

impl Sample<'_> {
    fn of(text: &str) -> Sample<'_> {
        let (setup, command) = text.split_once("=>").unwrap();
        let (command, other) = command.split_once(" & ").map_or((command, None), |(a, b)| (a, Some(b.trim())));
        let setup = setup.split(';').map(str::trim).filter(|line| !line.is_empty()).collect();
        Sample { setup, command: command.trim(), other }
    }

    /// Its words, with what only the server or the clock can say.
    fn request(&self, client: &mut Client) -> Vec<Vec<u8>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let filled = |word: &str| {
            if let Some(key) = word.strip_prefix("{dump:") {
                match client.words(&format!("DUMP {}", key.trim_end_matches('}'))) {
                    Reply::Text(dump) => dump,
                    other => panic!("{other:?}"),
                }
            } else if let Some(seconds) = word.strip_prefix("{now+") {
                (now + seconds.trim_end_matches('}').parse::<u64>().unwrap()).to_string().into_bytes()
            } else {
                word.as_bytes().to_vec()
            }
        };
        self.command.split_whitespace().map(filled).collect()
    }
}

struct Bench {
    client: Client,
    other: Client,
    stream: Client,
}

impl Bench {
    /// The request, and its effects; `None`: the server does not know it.
    fn run(&mut self, sample: &Sample<'_>) -> Option<(Effect, Vec<Effect>)> {
        self.client.words("FLUSHALL");
        for line in &sample.setup {
            if let Some(key) = line.strip_prefix("WAITFOR ") {
                // Its time is over: DEBUG SLEEP of a test, without DEBUG.
                std::thread::sleep(Duration::from_millis(20));
                assert!(!key.is_empty());
            } else if let Reply::Error(_) = self.client.words(line) {
                return None;
            }
        }
        let request = sample.request(&mut self.client);
        self.other.words(&format!("SET {MARK} begin"));
        match sample.other {
            None => {
                if let Reply::Error(error) = self.client.ask(&request) {
                    let known = ["unknown command", "syntax error", "unknown subcommand", "wrong number of arguments"];
                    assert!(
                        known.iter().any(|text| error.to_lowercase().contains(text)),
                        "{}: {error}",
                        sample.command
                    );
                    self.other.words(&format!("SET {MARK} end"));
                    self.between_marks();
                    return None;
                }
            }
            Some(other) => {
                self.client.send(&request);
                self.wait_until_blocked();
                self.other.words(other);
                self.client.reply();
            }
        }
        self.other.words(&format!("SET {MARK} end"));
        Some((request, self.between_marks()))
    }

    fn wait_until_blocked(&mut self) {
        let started = Instant::now();
        loop {
            let Reply::Text(info) = self.other.words("INFO clients") else { panic!("no INFO") };
            if String::from_utf8_lossy(&info).contains("blocked_clients:1") {
                return;
            }
            assert!(started.elapsed() < LIMIT, "it never blocked");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn between_marks(&mut self) -> Vec<Effect> {
        let is_mark = |effect: &Effect, which: &str| {
            effect.len() == 3 && effect[1] == MARK.as_bytes() && effect[2] == which.as_bytes()
        };
        while !is_mark(&self.stream.effect(), "begin") {}
        let mut found = Vec::new();
        loop {
            let effect = self.stream.effect();
            if is_mark(&effect, "end") {
                return found;
            }
            found.push(effect);
        }
    }
}

/// As the file has it.
fn spelt(effects: &[Effect]) -> String {
    let word = |arg: &Vec<u8>| {
        let text = String::from_utf8_lossy(arg);
        let (front, back) = text.split_once('-').unwrap_or((&text, ""));
        let is_time = front.len() >= 13 && front.bytes().all(|byte| byte.is_ascii_digit());
        match (is_time, back.is_empty()) {
            _ if text.starts_with("any-") => "<any>".to_owned(),
            (true, true) if front != "4000000000000" && front.len() == 13 => "<ms>".to_owned(),
            (true, false) => "<id>".to_owned(),
            _ if arg.iter().any(|byte| !(b' '..=b'~').contains(byte)) => "<dump>".to_owned(),
            _ => text.into_owned(),
        }
    };
    let effect = |effect: &Effect| effect.iter().map(word).collect::<Vec<_>>().join(" ");
    if effects.is_empty() { "nothing".to_owned() } else { effects.iter().map(effect).collect::<Vec<_>>().join("; ") }
}

/// Whether what the sample left is found by the form of its request.
fn is_found(request: &Effect, effects: &[Effect]) -> bool {
    let args: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
    let own: Vec<&Effect> =
        effects.iter().filter(|effect| !matches!(&*effect[0], b"SELECT" | b"MULTI" | b"EXEC")).collect();
    match form::of(&args) {
        Form::Anything | Form::Outside => true,
        // Lazy expiry is nobody's.
        Form::Nothing => own.iter().all(|effect| {
            effect[0].eq_ignore_ascii_case(b"DEL")
                || effect[0].eq_ignore_ascii_case(b"UNLINK")
                || effect[0] == b"PFCOUNT"
        }),
        Form::Traces(traces) => {
            own.is_empty()
                || own.iter().any(|effect| {
                    let bytes = encode(&effect.iter().map(Vec::as_slice).collect::<Vec<_>>());
                    traces.iter().any(|trace| trace.matches(Args::new(&bytes)))
                })
        }
    }
}

#[test]
fn every_write_command_leaves_what_the_table_says() {
    let redis = Redis::start();
    let mut bench =
        Bench { client: Client::new(redis.port), other: Client::new(redis.port), stream: Client::follow(redis.port) };
    let text = fs::read_to_string(FORMS).unwrap();
    let mut written = String::new();
    let (mut wrong, mut sampled, mut measured) = (Vec::new(), BTreeSet::new(), 0);
    for line in text.lines() {
        if line.starts_with('#') {
            written += &format!("{line}\n");
            continue;
        }
        let (sample, known) = line.split_once(" -> ").unwrap_or((line, ""));
        let mut known: Vec<&str> = known.split(" | ").filter(|form| !form.is_empty()).collect();
        let read = Sample::of(sample);
        let names: Vec<String> = read.command.to_lowercase().split_whitespace().take(2).map(str::to_owned).collect();
        sampled.insert(names.join("|"));
        sampled.insert(names[0].clone());
        let left = bench.run(&read).map(|(request, effects)| {
            if !is_found(&request, &effects) {
                wrong.push(format!("{sample}: {} is not found by its form", spelt(&effects)));
            }
            spelt(&effects)
        });
        if let Some(left) = &left {
            measured += 1;
            if !known.contains(&left.as_str()) {
                wrong.push(format!("{sample} left {left}, not {known:?}"));
                known.push(left);
            }
        }
        let known = known.join(" | ");
        written += &if known.is_empty() { format!("{sample}\n") } else { format!("{sample} -> {known}\n") };
    }
    let Reply::List(commands) = bench.client.words("COMMAND LIST FILTERBY ACLCAT write") else { panic!("no list") };
    assert!(commands.len() > 80 && measured > 100, "{} commands, {measured} samples", commands.len());
    for command in commands {
        let Reply::Text(name) = command else { panic!("no name") };
        let name = String::from_utf8(name).unwrap();
        // Modules are not in the table.
        if !name.contains('.')
            && !WITHOUT.contains(&name.as_str())
            && !sampled.contains(&name)
            && !name.starts_with('v')
        {
            wrong.push(format!("{name} has no sample"));
        }
    }
    if std::env::var_os("HISTORY_FORMS").is_some_and(|what| what == "write") {
        fs::write(Path::new(FORMS), written).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
