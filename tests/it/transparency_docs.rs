//! Requests made from what a server says of its commands: valid ones, and ones that it must refuse.
//!
//! Nothing here knows a command; only names of arguments are given values that mean something.

use std::collections::BTreeSet;

use switchmaster::demo::wire::Reply;

/// A command, or a subcommand as `config|get`, with its arguments.
pub struct Command {
    pub name: String,
    group: String,
    arguments: Vec<Argument>,
}

struct Argument {
    name: String,
    kind: String,
    token: Option<String>,
    optional: bool,
    multiple: bool,
    multiple_token: bool,
    parts: Vec<Argument>,
}

/// Which of the many requests that fit a command's arguments.
#[derive(Clone, Copy)]
struct Choice<'a> {
    /// All optional arguments, or only the one at this place.
    options: Options,
    /// Of several alternatives, this one.
    alternative: usize,
    /// How often an argument that may be repeated stands there.
    times: usize,
    key: &'a str,
}

#[derive(Clone, Copy, PartialEq)]
enum Options {
    None,
    All,
    Only(usize),
}

/// What `COMMAND DOCS` says.
pub fn commands(docs: &Reply) -> Vec<Command> {
    let mut found = Vec::new();
    collect(docs, "", &mut found);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn collect(docs: &Reply, group: &str, found: &mut Vec<Command>) {
    for pair in docs.items().chunks_exact(2) {
        let name = pair[0].text().unwrap().to_owned();
        let group = pair[1].field("group").unwrap_or(group).to_owned();
        if let Some(subcommands) = entry(&pair[1], "subcommands") {
            collect(subcommands, &group, found);
        }
        found.push(Command { name, group, arguments: arguments(&pair[1]) });
    }
}

fn arguments(docs: &Reply) -> Vec<Argument> {
    let Some(list) = entry(docs, "arguments") else { return Vec::new() };
    let one = |docs: &Reply| {
        let flags: Vec<&str> =
            entry(docs, "flags").map_or(&[][..], Reply::items).iter().filter_map(Reply::text).collect();
        Argument {
            name: docs.field("name").unwrap_or_default().to_owned(),
            kind: docs.field("type").unwrap_or_default().to_owned(),
            token: docs.field("token").map(str::to_owned),
            optional: flags.contains(&"optional"),
            multiple: flags.contains(&"multiple"),
            multiple_token: flags.contains(&"multiple_token"),
            parts: arguments(docs),
        }
    };
    list.items().iter().map(one).collect()
}

fn entry<'a>(map: &'a Reply, key: &str) -> Option<&'a Reply> {
    map.items().chunks_exact(2).find(|pair| pair[0].text() == Some(key)).map(|pair| &pair[1])
}

/// Requests of this command, each once.
pub fn requests(command: &Command) -> Vec<Vec<Vec<u8>>> {
    let key = match command.group.as_str() {
        "list" => "list",
        "set" => "set",
        "sorted-set" | "sorted_set" => "zset",
        "hash" => "hash",
        "stream" => "stream",
        "geo" => "geo",
        "hyperloglog" => "hll",
        "bitmap" => "bits",
        _ => "str",
    };
    let base = Choice { options: Options::None, alternative: 0, times: 1, key };
    let mut choices = Vec::new();
    for alternative in 0..6 {
        choices.push(Choice { alternative, ..base });
        choices.push(Choice { alternative, options: Options::All, ..base });
    }
    choices.push(Choice { times: 2, ..base });
    for only in 0..command.arguments.len() {
        choices.extend((0..6).map(|alternative| Choice { options: Options::Only(only), alternative, ..base }));
    }
    // The right type once more, the wrong ones, and none.
    choices.extend(
        ["missing", "str", "text", "list", "set", "zset", "hash", "stream", "hll"].map(|key| Choice { key, ..base }),
    );
    let words: Vec<Vec<u8>> = command.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
    let mut requests: Vec<Vec<Vec<u8>>> =
        choices.iter().map(|choice| [words.clone(), render(&command.arguments, *choice)].concat()).collect();
    let minimal = requests[0].clone();
    // Too few and too many.
    requests.extend((1..minimal.len()).map(|length| minimal[..length].to_vec()));
    for more in 1..4 {
        requests.push([minimal.clone(), vec![b"extra".to_vec(); more]].concat());
    }
    // Values of the wrong kind, in the last place and in each other.
    for place in words.len()..minimal.len() {
        for wrong in [&b"notanumber"[..], b"", b"-1", b"\xff\x00\r\n$5\r\n", b"99999999999999999999"] {
            let mut request = minimal.clone();
            request[place] = wrong.to_vec();
            requests.push(request);
        }
    }
    // "Later than now" would depend on the millisecond in which it is asked: sooner than what is set is always refused.
    for request in requests.iter_mut().filter(|request| request.iter().any(|word| word == b"GT")) {
        for word in request.iter_mut().filter(|word| word.starts_with(b"9000")) {
            word[0] = b'8';
        }
    }
    let mut seen = BTreeSet::new();
    requests.retain(|request| seen.insert(request.clone()));
    requests
}

fn render(arguments: &[Argument], choice: Choice<'_>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (place, argument) in arguments.iter().enumerate() {
        let wanted = match choice.options {
            _ if !argument.optional => true,
            Options::Only(only) => only == place,
            options => options == Options::All,
        };
        if wanted {
            argument.render(choice, &mut out);
        }
    }
    out
}

impl Argument {
    fn render(&self, choice: Choice<'_>, out: &mut Vec<Vec<u8>>) {
        let times = if self.multiple { choice.times } else { 1 };
        for time in 0..times {
            if let Some(token) = &self.token
                && (time == 0 || self.multiple_token)
            {
                out.push(token.clone().into_bytes());
            }
            match self.kind.as_str() {
                "pure-token" => {}
                "oneof" => {
                    if let Some(part) = self.parts.get(choice.alternative % self.parts.len().max(1)) {
                        part.render(choice, out);
                    }
                }
                // What is optional within stands there if this does by wish.
                "block" => {
                    let options = if choice.options == Options::None { Options::None } else { Options::All };
                    out.extend(render(&self.parts, Choice { options, ..choice }));
                }
                kind => out.push(self.value(kind, choice.key).as_bytes().to_vec()),
            }
        }
    }

    fn value<'a>(&self, kind: &str, key: &'a str) -> &'a str {
        match (kind, self.name.as_str()) {
            ("key", "destination" | "newkey" | "dstkey") => "dst",
            ("key", "key2") => "text",
            ("key", _) => key,
            ("pattern", _) => "s*",
            ("unix-time", _) => "9999999999",
            (_, "timeout") => "0.01",
            (_, "milliseconds") if self.token.as_deref() == Some("BLOCK") => "5",
            // Nothing expires while it is compared.
            (_, "milliseconds") => "9000000",
            (_, "seconds") => "9000",
            (_, "cursor") => "0",
            (_, "script") => "return redis.call('TYPE', KEYS[1] or 'str')",
            (_, "function-code") => "#!lua name=lib\nredis.register_function('f', function(keys) return keys end)",
            (_, "function") => "f",
            (_, "sha1") => "e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
            (_, "id" | "start-id" | "last-id" | "ids") => "1-1",
            (_, "start") if key == "stream" => "-",
            (_, "end") if key == "stream" => "+",
            (_, "group" | "groupname") => "g",
            (_, "consumer" | "consumername") => "c",
            (_, "field" | "fields") => "field",
            (_, "member" | "member1") if key == "geo" => "Palermo",
            (_, "member2") if key == "geo" => "Catania",
            (_, "member") if key == "set" => "1",
            (_, "member") => "a",
            (_, "pivot") => "b",
            (_, "stop" | "end") => "-1",
            (_, "channel" | "shardchannel") => "probe",
            (_, "username") => "someone",
            (_, "protover") => "3",
            (_, "arguments" | "arg") => "arg",
            (_, "command") => "get",
            ("integer" | "double", "offset" | "start" | "index") => "0",
            ("integer" | "double", _) => "1",
            _ => "value",
        }
    }
}
