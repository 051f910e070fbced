//! The walker on RDBs written by hand: every opcode and type, every split point, and every way to be wrong.

use proptest::prelude::*;

use super::*;

/// An RDB of Redis that is written here byte by byte.
struct Rdb(Vec<u8>);

impl Rdb {
    fn new(magic: &str) -> Rdb {
        Rdb(magic.as_bytes().to_vec())
    }

    fn raw(mut self, bytes: &[u8]) -> Rdb {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Type and name.
    fn key(self, kind: u8, name: &str) -> Rdb {
        self.raw(&[kind]).string(name.as_bytes())
    }

    fn len(self, len: u64) -> Rdb {
        match len {
            0..0x40 => self.raw(&[len as u8]),
            0x40..0x4000 => self.raw(&(0x4000 | len as u16).to_be_bytes()),
            0x4000..0x1_0000_0000 => self.raw(&[0x80]).raw(&(len as u32).to_be_bytes()),
            _ => self.raw(&[0x81]).raw(&len.to_be_bytes()),
        }
    }

    fn string(self, bytes: &[u8]) -> Rdb {
        self.len(bytes.len() as u64).raw(bytes)
    }

    fn lzf(self, packed: &[u8], len: u64) -> Rdb {
        self.raw(&[0xc3]).len(packed.len() as u64).len(len).raw(packed)
    }

    fn end(self) -> Vec<u8> {
        let mut rdb = self.raw(&[0xff]).0;
        let mut crc = Crc64::new();
        crc.update(&rdb);
        rdb.extend_from_slice(&crc.value().to_le_bytes());
        rdb
    }

    /// As with `rdbchecksum no`.
    fn end_unchecked(self) -> Vec<u8> {
        self.raw(&[0xff]).raw(&[0; 8]).0
    }
}

fn listpack(entries: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        body.push(0x80 | entry.len() as u8);
        body.extend_from_slice(entry);
        body.push(entry.len() as u8 + 1);
    }
    let mut blob = (body.len() as u32 + 7).to_le_bytes().to_vec();
    blob.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    blob.extend(body);
    blob.push(0xff);
    blob
}

fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut tail, mut before) = (Vec::new(), 10, 0);
    for entry in entries {
        tail = 10 + body.len() as u32;
        body.extend_from_slice(&[before, entry.len() as u8]);
        body.extend_from_slice(entry);
        before = entry.len() as u8 + 2;
    }
    let mut blob = (body.len() as u32 + 11).to_le_bytes().to_vec();
    blob.extend_from_slice(&tail.to_le_bytes());
    blob.extend_from_slice(&(entries.len() as u16).to_le_bytes());
    blob.extend(body);
    blob.push(0xff);
    blob
}

fn intset(integers: &[i16]) -> Vec<u8> {
    let mut blob = 2u32.to_le_bytes().to_vec();
    blob.extend_from_slice(&(integers.len() as u32).to_le_bytes());
    blob.extend(integers.iter().flat_map(|integer| integer.to_le_bytes()));
    blob
}

/// A stream of format 1 to 5 with a group that has two pending entries and a consumer that owns one.
fn stream(rdb: Rdb, format: u8) -> Rdb {
    let mut rdb = rdb.len(1).string(&[7; 16]).string(&listpack(&[b"1", b"0"])).len(1).len(1_700_000_000_000).len(0);
    if format >= 2 {
        rdb = rdb.len(1).len(2).len(0).len(0).len(1);
    }
    rdb = rdb.len(1).string(b"group").len(5).len(6);
    if format >= 2 {
        rdb = rdb.len(1);
    }
    rdb = rdb.len(2).raw(&[1; 16]).raw(&[2; 8]).len(3).raw(&[4; 16]).raw(&[5; 8]).len(300);
    rdb = rdb.len(1).string(b"consumer").raw(&[8; 8]);
    if format >= 3 {
        rdb = rdb.raw(&[9; 8]);
    }
    rdb = rdb.len(1).raw(&[1; 16]);
    if format >= 5 {
        rdb = rdb.len(1).raw(&[4; 16]);
    }
    if format >= 4 {
        rdb = rdb.len(100).len(100).len(2).string(b"idle").len(0).string(b"producer").len(1).string(b"message");
        rdb = rdb.len(1_700_000_000_000).len(0).len(7).len(1);
    }
    rdb
}

/// An array with a place for the next element or without, and an element of each kind.
fn array(rdb: Rdb, next: Option<u64>) -> Rdb {
    let rdb = rdb.len(4);
    let rdb = match next {
        Some(next) => rdb.len(1).len(next),
        None => rdb.len(0),
    };
    let rdb = rdb.len(0).len(1).raw(&[1; 8]).len(7).len(2).raw(&1.5f64.to_le_bytes());
    rdb.len(1 << 40).len(3).string(b"short").len(1 << 41).len(0).string(b"a longer text")
}

fn module(rdb: Rdb) -> Rdb {
    let items = rdb.len(1).len(40).len(2).len(1 << 40).len(3).raw(&[1; 4]).len(4).raw(&[2; 8]);
    items.len(5).string(b"of a module").len(0)
}

/// Everything that Redis 8.8 reads but for the modules of a release candidate.
fn redis() -> Vec<u8> {
    let mut rdb = Rdb::new("REDIS0014")
        .raw(&[250])
        .string(b"redis-ver")
        .string(b"8.0.0")
        .raw(&[250])
        .string(b"redis-bits")
        .raw(&[0xc0, 64])
        .raw(&[245])
        .string(b"#!lua name=one\n")
        .raw(&[246])
        .string(b"two")
        .string(b"LUA")
        .len(1)
        .string(b"described")
        .string(b"code");
    rdb = module(rdb.raw(&[247]).len(0x1234_5678_9abc_def0).len(2).len(1));
    rdb = rdb.raw(&[254]).len(0).raw(&[251]).len(3).len(1).raw(&[244]).len(16383).len(3).len(1);
    // Strings: each form of an integer, plain, empty, compressed.
    rdb = rdb.key(0, "empty").string(b"").key(0, "plain").string(b"value").key(0, "int8").raw(&[0xc0, 0x85]);
    rdb = rdb.key(0, "int16").raw(&[0xc1, 1, 2]).key(0, "int32").raw(&[0xc2, 1, 2, 3, 4]);
    rdb = rdb.key(0, "lzf").lzf(&[1, b'a', b'b', 0xe0, 20, 1, 0, b'!'], 32);
    // A name that is an integer, and one that is compressed.
    rdb = rdb.raw(&[0, 0xc1, 0x39, 0x30]).string(b"12345");
    rdb = rdb.raw(&[0]).lzf(&[1, b'k', b'e', 0x80, 1, 0, b'y'], 9).string(b"kekekekey? no: kekekekey");
    // What is said of a key before it.
    rdb = rdb.raw(&[252]).raw(&1_700_000_000_123u64.to_le_bytes()).raw(&[249, 7]).key(0, "ms").string(b"v");
    rdb = rdb.raw(&[253]).raw(&1_700_000_000u32.to_le_bytes()).raw(&[248]).len(300).key(0, "s").string(b"v");
    rdb = rdb.raw(&[254]).len(9);
    rdb = rdb.key(1, "list").len(2).string(b"a").raw(&[0xc0, 1]).key(2, "set").len(1).string(b"a");
    rdb = rdb.key(3, "zset").len(4).string(b"a").string(b"1.5").string(b"b").raw(&[254]).string(b"c").raw(&[255]);
    rdb = rdb.string(b"d").string(b"-17").key(4, "hash").len(1).string(b"f").string(b"v");
    rdb = rdb.key(5, "zset2").len(1).string(b"a").raw(&1.5f64.to_le_bytes());
    rdb = module(rdb.key(7, "module").len(0x7777_7777_7777_7777));
    rdb = rdb.key(9, "zipmap").string(&[1, 1, b'f', 1, 0, b'v', 0xff]).key(10, "lz").string(&ziplist(&[b"a"]));
    rdb = rdb.key(11, "intset").string(&intset(&[-1, 5])).key(12, "zz").string(&ziplist(&[b"a", b"1"]));
    rdb = rdb.key(13, "hz").string(&ziplist(&[b"f", b"v"]));
    rdb = rdb.key(14, "ql").len(2).string(&ziplist(&[b"a"])).string(&ziplist(&[b"b", b"c"]));
    rdb = stream(rdb.key(15, "x1"), 1);
    rdb = rdb.key(16, "hl").string(&listpack(&[b"f", b"v"])).key(17, "zl").string(&listpack(&[b"a", b"1"]));
    rdb = rdb.key(18, "ql2").len(2).len(1).string(b"large").len(2).string(&listpack(&[b"a"]));
    rdb = stream(rdb.key(19, "x2"), 2).key(20, "sl").string(&listpack(&[b"a"]));
    rdb = stream(rdb.key(21, "x3"), 3);
    rdb = rdb.key(22, "hm0").len(1).len(1_700_000_000_000).string(b"f").string(b"v");
    rdb = rdb.key(23, "hx0").string(&listpack(&[b"f", b"v", b"0"]));
    rdb = rdb.key(24, "hm").raw(&[1; 8]).len(2).len(0).string(b"f").string(b"v").len(1).string(b"g").string(b"w");
    rdb = rdb.key(25, "hx").raw(&[1; 8]).string(&listpack(&[b"f", b"v", b"0"]));
    rdb = stream(rdb.key(26, "x4"), 4);
    rdb = stream(rdb.key(27, "x5"), 5);
    rdb = array(array(rdb.key(28, "a1"), Some(1 << 42)).key(28, "a0"), None);
    module(rdb.raw(&[243]).len(1).raw(&[1; 4])).key(0, "with metadata").string(b"v").end()
}

/// What only Valkey 9 has.
fn valkey() -> Vec<u8> {
    Rdb::new("VALKEY080")
        .raw(&[243])
        .string(b"job")
        .len(1)
        .len(0)
        .len(100)
        .raw(&[254, 3])
        .key(22, "fields")
        .len(1)
        .string(b"f")
        .string(b"v")
        .raw(&[0xff; 8])
        .end()
}

/// Keys and outcome, the input cut into pieces of these sizes; the last size is that of all the rest.
fn walked(input: &[u8], sizes: &[usize]) -> (Vec<String>, Result<Summary, Malformed>) {
    let mut told = Vec::new();
    let mut walker = Walker::new();
    let mut each = |entry: Entry<'_>| told.push(format!("{entry:?}"));
    let (mut at, mut sizes) = (0, sizes.iter().copied());
    let mut size = sizes.next().unwrap_or(input.len());
    while at < input.len() {
        let piece = &input[at..input.len().min(at + size)];
        match walker.feed(piece, &mut each) {
            Ok(taken) if taken < piece.len() => {
                let failed = walker.followed();
                return (told, Err(failed));
            }
            Ok(_) => {}
            Err(failed) => return (told, Err(failed)),
        }
        at += piece.len();
        size = sizes.next().unwrap_or(size);
    }
    (told, walker.finish())
}

/// The error of an RDB, which is the same however it is cut.
fn wrong(input: &[u8]) -> Malformed {
    let whole = walked(input, &[]);
    assert_eq!(whole, walked(input, &[1]), "byte by byte");
    whole.1.expect_err("it is wrong")
}

/// The error of one key with this value.
fn wrong_value(kind: u8, value: impl FnOnce(Rdb) -> Rdb) -> String {
    let failed = wrong(&value(Rdb::new("REDIS0011").key(kind, "broken")).end());
    assert_eq!(failed.key.as_deref(), Some(&b"broken"[..]), "{failed}");
    failed.what
}

#[test]
fn everything_is_known_and_counted() {
    let rdb = redis();
    let mut names = Vec::new();
    let summary = walk(&rdb[..], &mut |entry| {
        names.push(String::from_utf8_lossy(entry.key).into_owned());
        match entry.key {
            b"ms" => assert_eq!((entry.expire_at_ms, entry.frequency), (Some(1_700_000_000_123), Some(7))),
            b"s" => assert_eq!((entry.expire_at_ms, entry.idle_s), (Some(1_700_000_000_000), Some(300))),
            _ => assert_eq!((entry.expire_at_ms, entry.idle_s, entry.frequency), (None, None, None)),
        }
        if entry.key == b"plain" {
            assert_eq!(&rdb[entry.value.start as usize..entry.value.end as usize], b"\x05value");
        }
    })
    .unwrap();
    assert_eq!(names[6], "12345");
    assert_eq!(names[7], "kekekekey");
    assert_eq!((summary.magic, summary.version, summary.bytes), (Magic::Redis, 14, rdb.len() as u64));
    assert_eq!(summary.crc64.unwrap().to_le_bytes(), rdb[rdb.len() - 8..]);
    assert_eq!((summary.aux["redis-ver"].as_str(), summary.aux["redis-bits"].as_str()), ("8.0.0", "64"));
    assert_eq!((summary.counts.functions, summary.libraries.len()), (2, 2));
    assert_eq!(rdb[summary.libraries[0].start as usize], 245);
    let (zero, nine) = (&summary.counts.databases[&0], &summary.counts.databases[&9]);
    assert_eq!((zero.keys, zero.expires, zero.types["string"]), (10, 2, 10));
    assert_eq!((nine.keys, nine.expires), (28, 0));
    let types: Vec<_> = nine.types.iter().map(|(name, keys)| (name.as_str(), *keys)).collect();
    let (arrays, hashes, lists, modules) = (("array", 2), ("hash", 8), ("list", 4), ("module", 1));
    assert_eq!(types, [arrays, hashes, lists, modules, ("set", 3), ("stream", 5), ("string", 1), ("zset", 4)]);
}

#[test]
fn valkey_9_has_its_own_magic_and_types() {
    let summary = walk(&valkey()[..], &mut |entry| assert_eq!((entry.db, entry.type_name), (3, "hash"))).unwrap();
    assert_eq!((summary.magic.to_string().as_str(), summary.version), ("VALKEY", 80));
    assert_eq!(summary.counts.databases[&3].types["hash"], 1);
    // The types of Redis 7.4 are none of it.
    let failed = wrong(&Rdb::new("VALKEY080").key(24, "k").end());
    assert_eq!(failed.what, "no type or opcode 24 is known (VALKEY, RDB version 80)");
}

#[test]
fn it_may_be_cut_anywhere() {
    for rdb in [redis(), valkey()] {
        let whole = walked(&rdb, &[]);
        assert!(whole.1.is_ok(), "{:?}", whole.1);
        assert_eq!(whole, walked(&rdb, &[1]), "byte by byte");
        for cut in 1..rdb.len() {
            assert_eq!(whole, walked(&rdb, &[cut, rdb.len()]), "cut at {cut}");
        }
    }
}

#[test]
fn what_ends_early_is_truncated_at_its_end() {
    for rdb in [redis(), valkey()] {
        for end in 0..rdb.len() {
            let failed = wrong(&rdb[..end]);
            assert_eq!((failed.cause, failed.offset), (Cause::Truncated, end as u64), "{failed}");
        }
    }
}

#[test]
fn the_end_is_found_in_a_stream_and_nothing_follows_it_in_a_file() {
    let rdb = redis();
    let mark = [b'f'; 40];
    let stream = [&rdb[..], &mark[..]].concat();
    for cut in [1, 100, rdb.len() - 1, rdb.len(), rdb.len() + 1] {
        let mut walker = Walker::new();
        let first = walker.feed(&stream[..cut], &mut |_| ()).unwrap();
        let second = walker.feed(&stream[first..], &mut |_| ()).unwrap();
        assert_eq!((first + second, walker.is_over(), walker.offset()), (rdb.len(), true, rdb.len() as u64));
        assert_eq!(walker.feed(&mark, &mut |_| ()), Ok(0));
        assert_eq!(walker.finish().unwrap().bytes, rdb.len() as u64);
    }
    let failed = walk(&stream[..], &mut |_| ()).unwrap_err();
    assert_eq!((failed.offset, failed.what.as_str()), (rdb.len() as u64, "other bytes follow its end"));
}

#[test]
fn the_checksum_is_compared_unless_it_is_switched_off() {
    let mut rdb = redis();
    let crc = rdb.len() - 8;
    rdb[crc + 3] ^= 1;
    let failed = wrong(&rdb);
    assert_eq!((failed.offset, failed.cause), (crc as u64, Cause::Unsound));
    assert!(failed.what.starts_with("its checksum says "), "{failed}");
    rdb[crc..].fill(0);
    assert_eq!(walk(&rdb[..], &mut |_| ()).unwrap().crc64, None);
    // Before version 5 there was none.
    let old = Rdb::new("REDIS0004").key(0, "k").string(b"v").raw(&[0xff]).0;
    let summary = walk(&old[..], &mut |_| ()).unwrap();
    assert_eq!((summary.crc64, summary.bytes, summary.counts.keys()), (None, old.len() as u64, 1));
}

#[test]
fn what_is_newer_is_told_from_what_is_damaged() {
    // Nothing in it is new: walked as ever.
    let summary = walk(&Rdb::new("REDIS0099").key(0, "k").string(b"v").end()[..], &mut |_| ()).unwrap();
    assert_eq!((summary.version, summary.counts.keys()), (99, 1));
    for (rdb, knows) in
        [(Rdb::new("REDIS0015").key(30, "k"), "14 (Redis"), (Rdb::new("VALKEY081").key(23, "k"), "80 (V")]
    {
        let failed = wrong(&rdb.end());
        assert_eq!(failed.cause, Cause::Newer);
        assert!(failed.what.contains("is newer than") && failed.what.contains(knows), "{failed}");
        assert_eq!(Error::from(failed).exit_code(), 87);
    }
    let mut damaged = Rdb::new("REDIS0099").key(0, "k").string(b"v").end();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(wrong(&damaged).cause, Cause::Unsound);
}

#[test]
fn an_rdb_without_data_is_whole() {
    let summary = walk(&Rdb::new("REDIS0011").end()[..], &mut |_| panic!("no key")).unwrap();
    assert_eq!((summary.counts, summary.bytes), (Counts::default(), 18));
}

#[test]
fn a_long_key_passes_and_its_head_stays() {
    let name: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
    // Compressed: 32 bytes as they are, then copies of them.
    let mut packed = vec![31];
    packed.extend_from_slice(&name[..32]);
    for _ in 0..1000 {
        packed.extend_from_slice(&[0xe0, 255, 31]);
    }
    let rdb = Rdb::new("REDIS0011").raw(&[0]).string(&name).string(b"v").raw(&[0]).lzf(&packed, 264_032).string(b"v");
    let mut seen = Vec::new();
    walk(&rdb.end()[..], &mut |entry| seen.push((entry.key.to_vec(), entry.key_len))).unwrap();
    assert_eq!(seen[0], (name[..KEY_KEPT].to_vec(), 300_000));
    assert_eq!(seen[1], (name[..32].iter().copied().cycle().take(KEY_KEPT).collect(), 264_032));
}

#[test]
fn errors_say_where_and_what() {
    let says = |input: &[u8], offset: u64, what: &str| {
        let failed = wrong(input);
        assert_eq!((failed.offset, failed.what.as_str()), (offset, what));
    };
    says(b"REDIX0011", 0, "an RDB begins with REDIS or VALKEY, not with \"REDIX0011\"");
    says(b"REDIS00x1", 0, "\"00x1\" is no version");
    says(b"REDIS0000", 0, "\"0000\" is no version");
    says(&Rdb::new("REDIS0014").raw(&[29]).0, 9, "no type or opcode 29 is known (REDIS, RDB version 14)");
    let start = || Rdb::new("REDIS0011");
    says(&start().raw(&[6]).0, 9, "no type or opcode 6 is known (REDIS, RDB version 11)");
    says(&start().raw(&[254]).len(1 << 32).0, 10, "no database has the number 4294967296");
    says(&start().raw(&[254, 0xc0]).0, 10, "a number stands here, not a string of encoding 0");
    says(&start().raw(&[252]).raw(&[0; 8]).raw(&[0xff]).0, 18, "an expiry or the like is followed by no key");
    says(&start().raw(&[247, 1, 1, 1]).0, 11, "1 stands where only 2 may");
    says(&start().raw(&[0, 0x82]).0, 10, "no length begins with the byte 0x82");
    says(&start().raw(&[0, 0xc4]).0, 10, "no string has the encoding 4");
    says(&start().raw(&[0, 0x81]).raw(&[0xff; 8]).0, 10, "no string has 18446744073709551615 bytes");
    let failed = wrong(&start().key(1, "a \"b\"\n").len(1).raw(&[0xc4]).0);
    let text = "at byte 18 of the RDB, in the key \"a \\\"b\\\"\\n\": no string has the encoding 4";
    assert_eq!(failed.to_string(), text);
    assert_eq!(Error::from(failed), Error::Unsound(text.to_owned()));
}

#[test]
fn values_that_cannot_be_are_refused() {
    let says = |kind, what: &str, value: &dyn Fn(Rdb) -> Rdb| assert_eq!(wrong_value(kind, value), what);
    says(3, "a score is not a number", &|rdb| rdb.len(1).string(b"a").raw(&[253]));
    says(3, "a score is empty", &|rdb| rdb.len(1).string(b"a").raw(&[0]));
    says(7, "no module writes an item of type 6", &|rdb| rdb.len(1).len(6));
    says(18, "no node of a list has the container 3", &|rdb| rdb.len(1).len(3));
    says(18, "an element of a list's own node is empty", &|rdb| rdb.len(1).len(1).string(b""));
    says(15, "no ID of a stream has 15 bytes", &|rdb| rdb.len(1).string(&[1; 15]));
    let mut pack = listpack(&[b"f", b"v"]);
    says(20, "a listpack of 6 bytes is too short", &|rdb| rdb.string(&pack[..6]));
    says(23, "a listpack of 2 entries, which come in groups of 3", &|rdb| rdb.string(&pack));
    pack[0] += 1;
    says(16, "a listpack of 13 bytes says it has 14", &|rdb| rdb.string(&pack));
    pack[0] -= 1;
    pack[12] = 0;
    says(16, "a listpack without its end mark", &|rdb| rdb.string(&pack));
    says(16, "a listpack of 5 bytes is too short", &|rdb| rdb.raw(&[0xc1, 1, 0x7f]));
    let mut zip = ziplist(&[b"a"]);
    says(12, "a ziplist of 1 entries, which come in groups of 2", &|rdb| rdb.string(&zip));
    zip[4] = 14;
    says(10, "a ziplist of 14 bytes has its last entry at 14", &|rdb| rdb.string(&zip));
    says(9, "a zipmap without its end mark", &|rdb| rdb.string(&[0, 0]));
    let mut set = intset(&[1, 2]);
    set[4] = 3;
    says(11, "an intset of 12 bytes says it has 3 integers of 2 bytes", &|rdb| rdb.string(&set));
    set[0] = 3;
    says(11, "an intset with integers of 3 bytes", &|rdb| rdb.string(&set));
}

#[test]
fn compressed_strings_must_unpack_to_their_length() {
    let says = |what: &str, packed: &[u8], len| assert_eq!(wrong_value(0, |rdb| rdb.lzf(packed, len)), what);
    says("a compressed string refers to bytes before its begin", &[0, b'a', 0x20, 1], 4);
    says("a compressed string becomes longer than the 3 bytes it says", &[0, b'a', 0x20, 0], 3);
    says("a compressed string ends after 4 of 5 bytes", &[0, b'a', 0x20, 0], 5);
    says("a compressed string ends after 1 of 5 bytes", &[0, b'a', 0x20], 5);
    says("4 compressed bytes cannot become 353", &[0, b'a', 0x20, 0], 353);
    says("0 compressed bytes cannot become 0", &[], 0);
    // The head of a structure is seen through the compression.
    let mut pack = listpack(&[&[b'v'; 60]]);
    pack[5] = 1;
    let packed = [vec![8], pack[..9].to_vec(), vec![0xe0, 49, 0, 1, 61, 0xff]].concat();
    assert_eq!(wrong_value(16, |rdb| rdb.lzf(&packed, 69)), "a listpack of 257 entries, which come in groups of 2");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_taken_or_refused(body in prop::collection::vec(any::<u8>(), 0..600), valkey in any::<bool>()) {
        let magic: &[u8] = if valkey { b"VALKEY080" } else { b"REDIS0012" };
        let input = [magic, &body].concat();
        let whole = walked(&input, &[]);
        prop_assert_eq!(&whole, &walked(&input, &[1]));
        let mut walker = Walker::new();
        let _ = walker.feed(&input, &mut |_| ());
        prop_assert!(walker.held() < 4096 + 2 * input.len());
    }

    #[test]
    fn any_change_of_a_sound_one_is_taken_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        checked in any::<bool>(),
        sizes in prop::collection::vec(1..200usize, 1..4),
    ) {
        let sound = redis();
        let mut rdb = sound.clone();
        for (at, byte) in changes {
            let at = at.index(rdb.len());
            rdb[at] = byte;
        }
        if !checked {
            let crc = rdb.len() - 8;
            rdb[crc..].fill(0);
        }
        let whole = walked(&rdb, &[]);
        prop_assert!(!checked || rdb == sound || whole.1.is_err());
        prop_assert_eq!(whole, walked(&rdb, &sizes));
    }
}

#[test]
fn unchecked_bytes_that_announce_much_hold_little() {
    let mut walker = Walker::new();
    let rdb = Rdb::new("REDIS0011").raw(&[0]).len(1 << 39).end_unchecked();
    walker.feed(&rdb, &mut |_| ()).unwrap();
    let chunk = vec![b'k'; 1 << 20];
    for _ in 0..64 {
        walker.feed(&chunk, &mut |_| ()).unwrap();
    }
    assert!(walker.held() <= 2 * KEY_KEPT + 4096, "{}", walker.held());
}
