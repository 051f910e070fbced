//! A data set with every type in every encoding that the server at hand writes, small and large, to try backups on.
//!
//! The same bytes each time. What an older server does not know is left out, and [`Zoo`] says so.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use switchmaster::secret::Credentials;
use switchmaster::wire::{Reply, Wire};

/// The databases with keys in them.
pub const DATABASES: [u32; 4] = [0, 1, 9, 15];

/// What was put in.
#[derive(Debug)]
pub struct Zoo {
    /// Function libraries.
    pub functions: u64,
    /// Whether fields of hashes have a time to live (Redis 7.4, Valkey 9).
    pub field_expiry: bool,
}

/// What a key is, comparable between servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exhibit {
    /// As TYPE says.
    pub kind: String,
    /// Milliseconds since 1970, or -1.
    pub expire_at_ms: i64,
    /// DUMP; of a set or a hash, whose order in a table differs between processes, its sorted elements.
    pub contents: Vec<u8>,
}

/// Fills the databases of the server; they should be empty.
pub async fn fill(addr: SocketAddr, auth: Option<&Credentials>) -> io::Result<Zoo> {
    let mut zoo = Zoo { functions: 0, field_expiry: false };
    for db in DATABASES {
        let mut keeper =
            Keeper { wire: Wire::open(addr, auth, db).await?, noise: 0x2545_f491_4f6c_dd1d + u64::from(db) };
        keeper.strings().await?;
        keeper.lists().await?;
        keeper.sets().await?;
        keeper.sorted_sets().await?;
        zoo.field_expiry = keeper.hashes().await?;
        keeper.streams().await?;
        keeper.names().await?;
        keeper.expiries().await?;
    }
    let mut wire = Wire::open(addr, auth, 0).await?;
    for name in ["one", "two"] {
        let code = format!(
            "#!lua name={name}\nredis.register_function('{name}_get', function(keys) return redis.call('GET', keys[1]) end)"
        );
        zoo.functions += u64::from(!is_unknown(&wire.ask(&["FUNCTION", "LOAD", &code]).await?)?);
    }
    Ok(zoo)
}

/// Every key of every database, by database and name.
pub async fn contents(addr: SocketAddr, auth: Option<&Credentials>) -> io::Result<BTreeMap<(u32, Vec<u8>), Exhibit>> {
    let mut all = BTreeMap::new();
    for db in DATABASES {
        let mut wire = Wire::open(addr, auth, db).await?;
        let names = ask(&mut wire, &[b"KEYS", b"*"]).await?;
        for name in names.items().iter().map(bytes) {
            all.insert((db, name.clone()), exhibit(&mut wire, &name).await?);
        }
    }
    Ok(all)
}

async fn exhibit(wire: &mut Wire, name: &[u8]) -> io::Result<Exhibit> {
    let kind = ask(wire, &[b"TYPE", name]).await?.text().unwrap_or_default().to_owned();
    let expire_at_ms = match ask(wire, &[b"PEXPIRETIME", name]).await? {
        Reply::Integer(at) => at,
        other => return Err(io::Error::other(format!("PEXPIRETIME: {other}"))),
    };
    let contents = match kind.as_str() {
        "set" => {
            let mut members: Vec<_> = ask(wire, &[b"SMEMBERS", name]).await?.items().iter().map(bytes).collect();
            members.sort();
            format!("{members:?}").into_bytes()
        }
        "hash" => {
            let all = ask(wire, &[b"HGETALL", name]).await?;
            let mut fields: Vec<_> =
                all.items().chunks(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]), None)).collect();
            for (field, _, expiry) in &mut fields {
                let reply = wire.ask(&[b"HPEXPIRETIME", name, b"FIELDS", b"1", &field[..]]).await?;
                *expiry = reply.items().first().cloned();
            }
            fields.sort_by(|one, other| one.0.cmp(&other.0));
            format!("{fields:?}").into_bytes()
        }
        _ => bytes(&ask(wire, &[b"DUMP", name]).await?),
    };
    Ok(Exhibit { kind, expire_at_ms, contents })
}

/// Puts things into one database.
struct Keeper {
    wire: Wire,
    noise: u64,
}

impl Keeper {
    async fn strings(&mut self) -> io::Result<()> {
        let incompressible = self.bytes(1 << 20);
        let repeated = b"0123456789abcdef".repeat(1 << 16);
        let values: [(&str, &[u8]); 18] = [
            ("string:empty", b""),
            ("string:short", b"value"),
            ("string:binary", b"\x00\xff\r\n$5\r\n"),
            ("string:int8", b"-128"),
            ("string:int16", b"32767"),
            ("string:int32", b"-2147483648"),
            ("string:int64", b"9223372036854775807"),
            ("string:int11", b"12345678901"),
            ("string:no-int", b"007"),
            ("string:float", b"3.25"),
            ("string:63", &incompressible[..63]),
            ("string:64", &incompressible[..64]),
            ("string:16383", &incompressible[..16_383]),
            ("string:16384", &incompressible[..16_384]),
            ("string:large", &incompressible),
            ("string:lzf", &repeated[..100]),
            ("string:lzf-large", &repeated),
            ("string:lzf-runs", &[b'a'; 5000]),
        ];
        for (name, value) in values {
            self.put(&[b"SET", name.as_bytes(), value]).await?;
        }
        self.put(&[b"SETBIT", b"bitmap", b"100000", b"1"]).await?;
        for at in 0..200u32 {
            self.put(&[b"PFADD", b"hyperloglog", &at.to_le_bytes()]).await?;
        }
        Ok(())
    }

    async fn lists(&mut self) -> io::Result<()> {
        self.many("RPUSH", "list:small", &[b"a", b"1", b"-70000", b"", &[b'x'; 70]]).await?;
        // One element each that needs more than a node, in servers that then make it a node of its own.
        let _ = self.wire.ask(&["DEBUG", "QUICKLIST-PACKED-THRESHOLD", "9000"]).await?;
        let large = self.bytes(20_000);
        self.many("RPUSH", "list:plain", &[b"a", &large, b"b", &[b'z'; 10_000], b"c"]).await?;
        let _ = self.wire.ask(&["DEBUG", "QUICKLIST-PACKED-THRESHOLD", "0"]).await?;
        for at in 0..40 {
            let elements: Vec<Vec<u8>> = (0..100).map(|of| format!("element {at} {}", of * of).into_bytes()).collect();
            let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
            self.many("RPUSH", "list:large", &elements).await?;
        }
        Ok(())
    }

    async fn sets(&mut self) -> io::Result<()> {
        self.many("SADD", "set:intset16", &[b"1", b"-2", b"300"]).await?;
        self.many("SADD", "set:intset32", &[b"1", b"70000"]).await?;
        self.many("SADD", "set:intset64", &[b"1", b"-9223372036854775808"]).await?;
        self.many("SADD", "set:small", &[b"1", b"a", b""]).await?;
        for at in 0..2000u32 {
            self.put(&[b"SADD", b"set:table", format!("member {at}").as_bytes()]).await?;
            self.put(&[b"SADD", b"set:integers", at.to_string().as_bytes()]).await?;
        }
        Ok(())
    }

    async fn sorted_sets(&mut self) -> io::Result<()> {
        self.many("ZADD", "zset:small", &[b"1", b"a", b"-inf", b"b", b"+inf", b"c", b"0.1", b"d", b"1e300", b"5"])
            .await?;
        self.many("ZADD", "zset:long", &[b"1.5", &[b'm'; 100], b"-0", b"zero"]).await?;
        self.many("GEOADD", "geo", &[b"13.361389", b"38.115556", b"Palermo", b"15.087269", b"37.502669", b"Catania"])
            .await?;
        for at in 0..1000u32 {
            let score = (f64::from(at) / 7.0).to_string();
            self.put(&[b"ZADD", b"zset:skiplist", score.as_bytes(), format!("member {at}").as_bytes()]).await?;
        }
        Ok(())
    }

    /// Whether fields can expire.
    async fn hashes(&mut self) -> io::Result<bool> {
        self.many("HSET", "hash:small", &[b"f", b"v", b"1", b"2", b"", b""]).await?;
        self.many("HSET", "hash:long", &[b"f", &[b'v'; 200]]).await?;
        for at in 0..1000u32 {
            let field = format!("field {at}");
            self.put(&[b"HSET", b"hash:table", field.as_bytes(), &at.to_le_bytes()]).await?;
            self.put(&[b"HSET", b"hash:table-ttl", field.as_bytes(), b"v"]).await?;
        }
        self.many("HSET", "hash:small-ttl", &[b"f", b"v", b"g", b"w", b"h", b"x"]).await?;
        for (name, field, at) in [
            ("hash:small-ttl", "f", "9000000000000"),
            ("hash:small-ttl", "g", "9000000000001"),
            ("hash:table-ttl", "field 5", "9000000000000"),
            ("hash:table-ttl", "field 500", "10000000000000"),
        ] {
            if is_unknown(&self.wire.ask(&["HPEXPIREAT", name, at, "FIELDS", "1", field]).await?)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn streams(&mut self) -> io::Result<()> {
        self.put(&[b"XGROUP", b"CREATE", b"stream:empty", b"group", b"$", b"MKSTREAM"]).await?;
        self.put(&[b"XADD", b"stream:small", b"5-1", b"f", b"v"]).await?;
        for at in 1..=500u32 {
            let id = format!("{at}-1");
            let value = format!("value {at}");
            self.put(&[b"XADD", b"stream:large", id.as_bytes(), b"field", value.as_bytes(), b"n", b"1"]).await?;
        }
        self.put(&[b"XDEL", b"stream:large", b"3-1", b"200-1", b"500-1"]).await?;
        for group in ["one", "two"] {
            let group = group.as_bytes();
            self.put(&[b"XGROUP", b"CREATE", b"stream:large", group, b"0"]).await?;
            for consumer in ["first", "second"] {
                let consumer = consumer.as_bytes();
                let count = b"COUNT";
                self.put(&[b"XREADGROUP", b"GROUP", group, consumer, count, b"50", b"STREAMS", b"stream:large", b">"])
                    .await?;
            }
            self.put(&[b"XACK", b"stream:large", group, b"1-1", b"60-1"]).await?;
            self.put(&[b"XGROUP", b"CREATECONSUMER", b"stream:large", group, b"idle"]).await?;
        }
        Ok(())
    }

    /// Names of every form.
    async fn names(&mut self) -> io::Result<()> {
        let long = self.bytes(100_000);
        let names: [&[u8]; 7] =
            [b"12345", b"-1", b"\x00\xff\r\n\"name\"", &[b'n'; 300], &long, "schlüssel:ß:鍵".as_bytes(), b"{tag}:1"];
        for name in names {
            self.put(&[b"SET", name, b"named"]).await?;
        }
        for at in 0..500u32 {
            self.put(&[b"SET", format!("many:{at:05}").as_bytes(), at.to_string().as_bytes()]).await?;
        }
        Ok(())
    }

    async fn expiries(&mut self) -> io::Result<()> {
        for (at, name) in ["string:short", "list:small", "set:small", "zset:small", "hash:small", "stream:small"]
            .into_iter()
            .enumerate()
        {
            let when = (9_000_000_000_000 + at as u64).to_string();
            self.put(&[b"PEXPIREAT", name.as_bytes(), when.as_bytes()]).await?;
        }
        for at in 0..100u32 {
            self.put(&[b"SET", format!("session:{at}").as_bytes(), b"data", b"EX", b"86400"]).await?;
        }
        Ok(())
    }

    async fn many(&mut self, command: &str, name: &str, elements: &[&[u8]]) -> io::Result<()> {
        let request: Vec<&[u8]> =
            [command.as_bytes(), name.as_bytes()].into_iter().chain(elements.iter().copied()).collect();
        self.put(&request).await
    }

    async fn put(&mut self, request: &[&[u8]]) -> io::Result<()> {
        ask(&mut self.wire, request).await.map(|_| ())
    }

    /// Bytes that do not compress: xorshift.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            bytes.extend_from_slice(&self.noise.to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

async fn ask(wire: &mut Wire, request: &[&[u8]]) -> io::Result<Reply> {
    match wire.ask(request).await? {
        Reply::Error(error) => {
            Err(io::Error::other(format!("{} {}: {error}", request[0].escape_ascii(), request[1].escape_ascii())))
        }
        reply => Ok(reply),
    }
}

/// Whether the server does not know the command; any other error is one.
fn is_unknown(reply: &Reply) -> io::Result<bool> {
    match reply {
        Reply::Error(error) if error.starts_with("ERR unknown") => Ok(true),
        Reply::Error(error) => Err(io::Error::other(error.clone())),
        _ => Ok(false),
    }
}

fn bytes(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Bulk(bytes) => bytes.clone(),
        Reply::Simple(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}
