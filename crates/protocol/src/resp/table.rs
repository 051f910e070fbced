//! The table of commands, one line each: name, class, shape, and where it has them duty and look.
//!
//! Source: the flags that `COMMAND` of Redis 7.0 gives (`tests/it/commands.rs` compares), the
//! documents of Redis 7.2 to 8.4 and Valkey 8 and 9, and judgement, which has a comment: it stands
//! over the lines it is about. Where nothing is known the line errs towards `Write`.

use super::command::{Class, Command, Duty, Look, Shape};

macro_rules! table {
    ($($name:literal $class:ident $shape:ident
        $(, duty $duty:ident)? $(, look $look:ident $(($word:literal))?)?;)*) => {
        &[$(Command {
            name: $name,
            class: Class::$class,
            shape: Shape::$shape,
            duty: table!(@duty $($duty)?),
            look: table!(@look $($look $(($word))?)?),
        }),*]
    };
    (@duty) => { Duty::None };
    (@duty $duty:ident) => { Duty::$duty };
    (@look) => { Look::Nothing };
    (@look $look:ident $(($word:literal))?) => { Look::$look $(($word))? };
}

/// What is in no line: a newer server's command or a module's.
pub(super) static UNKNOWN: Command =
    Command { name: "", class: Class::Write, shape: Shape::Unknown, duty: Duty::None, look: Look::Nothing };

pub(super) static TABLE: &[Command] = LINES;

const LINES: &[Command] = table! {
    // The connection.
    "AUTH" Connection Scalar, duty Auth;
    "HELLO" Connection Aggregate, duty Hello;
    "SELECT" Connection Scalar, duty Select;
    "PING" Read Scalar, duty Ping;
    "ECHO" Read Scalar;
    "QUIT" Connection Scalar, duty Quit;
    "RESET" Connection Scalar, duty Reset;
    "READONLY" Connection Scalar, duty ReadOnly;
    "READWRITE" Connection Scalar, duty ReadWrite;
    "ASKING" Connection Scalar, duty Asking;
    "CLIENT" Connection Scalar, duty Client, look Subcommand;
    "CLIENT|ID" Connection Scalar, duty Client;
    "CLIENT|INFO" Connection Scalar, duty Client;
    "CLIENT|LIST" Connection Scalar, duty Client;
    "CLIENT|GETNAME" Connection Scalar, duty Client;
    "CLIENT|GETREDIR" Connection Scalar, duty Client;
    "CLIENT|SETNAME" Connection Scalar, duty Client;
    "CLIENT|SETINFO" Connection Scalar, duty Client;
    "CLIENT|NO-EVICT" Connection Scalar, duty Client;
    "CLIENT|NO-TOUCH" Connection Scalar, duty Client;
    "CLIENT|REPLY" Connection Scalar, duty Client;
    "CLIENT|TRACKING" Connection Scalar, duty Client;
    "CLIENT|CACHING" Connection Scalar, duty Client;
    "CLIENT|CAPA" Connection Scalar, duty Client;
    "CLIENT|IMPORT-SOURCE" Connection Scalar, duty Client;
    "CLIENT|MAINT_NOTIFICATIONS" Connection Scalar, duty Client;
    "CLIENT|TRACKINGINFO" Connection Aggregate, duty Client;
    "CLIENT|HELP" Connection Aggregate, duty Client;
    // About other connections of that node, whose ids mean nothing on another.
    "CLIENT|KILL" Never Scalar, duty Client;
    "CLIENT|UNBLOCK" Never Scalar, duty Client;
    "CLIENT|PAUSE" Never Scalar, duty Client;
    "CLIENT|UNPAUSE" Never Scalar, duty Client;

    // Transactions. EXEC may not be sent alone: its queue would be missing.
    "MULTI" Connection Scalar, duty Multi;
    "EXEC" Never Aggregate, duty Exec;
    "DISCARD" Connection Scalar, duty Discard;
    "WATCH" Connection Scalar, duty Watch;
    "UNWATCH" Connection Scalar, duty Unwatch;

    // Publish and subscribe.
    "SUBSCRIBE" Connection Aggregate, duty Subscribe;
    "PSUBSCRIBE" Connection Aggregate, duty Psubscribe;
    "SSUBSCRIBE" Connection Aggregate, duty Ssubscribe;
    "UNSUBSCRIBE" Connection Aggregate, duty Unsubscribe;
    "PUNSUBSCRIBE" Connection Aggregate, duty Punsubscribe;
    "SUNSUBSCRIBE" Connection Aggregate, duty Sunsubscribe;
    // Subscribers would hear it twice.
    "PUBLISH" Write Scalar;
    "SPUBLISH" Write Scalar;
    "PUBSUB" Read Aggregate, look Subcommand;
    "PUBSUB|CHANNELS" Read Aggregate;
    "PUBSUB|NUMSUB" Read Aggregate;
    "PUBSUB|SHARDCHANNELS" Read Aggregate;
    "PUBSUB|SHARDNUMSUB" Read Aggregate;
    "PUBSUB|HELP" Read Aggregate;
    "PUBSUB|NUMPAT" Read Scalar;
    "MONITOR" Connection Scalar, duty Monitor;

    // Replication, and what is about one node.
    "SYNC" Never Unknown, duty Replication;
    "PSYNC" Never Unknown, duty Replication;
    "REPLCONF" Never Unknown, duty Replication;
    "REPLICAOF" Never Scalar;
    "SLAVEOF" Never Scalar;
    "FAILOVER" Never Scalar;
    "SHUTDOWN" Never Scalar;
    "DEBUG" Never Unknown;
    "PFDEBUG" Never Unknown;
    "PFSELFTEST" Never Unknown;
    // A fresh connection has written nothing to wait for.
    "WAIT" Never Scalar, duty Wait;
    "WAITAOF" Never Aggregate, duty Wait;
    "ROLE" Read Aggregate;
    "TIME" Read Aggregate;
    "INFO" Read Scalar;
    "LASTSAVE" Read Scalar;
    "LOLWUT" Read Scalar;
    "SAVE" Write Scalar;
    "BGSAVE" Write Scalar;
    "BGREWRITEAOF" Write Scalar;

    // Scripts and functions.
    // May write, for all the server knows.
    "EVAL" Write Unknown, duty Eval;
    "EVALSHA" Write Unknown, duty Evalsha;
    "FCALL" Write Unknown;
    "EVAL_RO" Read Unknown, duty Eval;
    "EVALSHA_RO" Read Unknown, duty Evalsha;
    "FCALL_RO" Read Unknown;
    "SCRIPT" Write Scalar, duty Script, look Subcommand;
    // Fills a cache: twice is once.
    "SCRIPT|LOAD" Read Scalar, duty Script;
    "SCRIPT|EXISTS" Read Aggregate, duty Script;
    "SCRIPT|HELP" Read Aggregate, duty Script;
    "SCRIPT|SHOW" Read Scalar, duty Script;
    "SCRIPT|FLUSH" Idempotent Scalar, duty Script;
    "SCRIPT|KILL" Never Scalar, duty Script;
    "SCRIPT|DEBUG" Never Scalar, duty Script;
    "FUNCTION" Write Scalar, look Subcommand;
    // Says whether the library was there.
    "FUNCTION|LOAD" Write Scalar;
    "FUNCTION|DELETE" Write Scalar;
    "FUNCTION|RESTORE" Write Scalar;
    "FUNCTION|FLUSH" Idempotent Scalar;
    "FUNCTION|DUMP" Read Scalar;
    "FUNCTION|LIST" Read Aggregate;
    "FUNCTION|STATS" Read Aggregate;
    "FUNCTION|HELP" Read Aggregate;
    "FUNCTION|KILL" Never Scalar;

    // Administration.
    "ACL" Write Scalar, look Subcommand;
    "ACL|LOAD" Write Scalar;
    "ACL|SAVE" Write Scalar;
    "ACL|SETUSER" Write Scalar;
    "ACL|DELUSER" Write Scalar;
    "ACL|WHOAMI" Read Scalar;
    "ACL|GENPASS" Read Scalar;
    "ACL|DRYRUN" Read Scalar;
    "ACL|LIST" Read Aggregate;
    "ACL|USERS" Read Aggregate;
    "ACL|CAT" Read Aggregate;
    "ACL|GETUSER" Read Aggregate;
    "ACL|HELP" Read Aggregate;
    // ACL LOG RESET empties a log of the node: twice is once.
    "ACL|LOG" Read Aggregate;
    "CONFIG" Write Scalar, look Subcommand;
    "CONFIG|GET" Read Aggregate;
    "CONFIG|HELP" Read Aggregate;
    // About the node that was asked.
    "CONFIG|SET" Write Scalar;
    "CONFIG|REWRITE" Write Scalar;
    "CONFIG|RESETSTAT" Write Scalar;
    "COMMAND" Read Aggregate, look Subcommand;
    "COMMAND|DOCS" Read Aggregate;
    "COMMAND|INFO" Read Aggregate;
    "COMMAND|LIST" Read Aggregate;
    "COMMAND|GETKEYS" Read Aggregate;
    "COMMAND|GETKEYSANDFLAGS" Read Aggregate;
    "COMMAND|HELP" Read Aggregate;
    "COMMAND|COUNT" Read Scalar;
    "LATENCY" Write Scalar, look Subcommand;
    "LATENCY|LATEST" Read Aggregate;
    "LATENCY|HISTORY" Read Aggregate;
    "LATENCY|HISTOGRAM" Read Aggregate;
    "LATENCY|HELP" Read Aggregate;
    "LATENCY|DOCTOR" Read Scalar;
    "LATENCY|GRAPH" Read Scalar;
    "LATENCY|RESET" Idempotent Scalar;
    "SLOWLOG" Write Scalar, look Subcommand;
    "SLOWLOG|GET" Read Aggregate;
    "SLOWLOG|HELP" Read Aggregate;
    "SLOWLOG|LEN" Read Scalar;
    "SLOWLOG|RESET" Idempotent Scalar;
    "COMMANDLOG" Write Scalar, look Subcommand;
    "COMMANDLOG|GET" Read Aggregate;
    "COMMANDLOG|HELP" Read Aggregate;
    "COMMANDLOG|LEN" Read Scalar;
    "COMMANDLOG|RESET" Idempotent Scalar;
    "MEMORY" Write Unknown, look Subcommand;
    "MEMORY|USAGE" Read Scalar;
    "MEMORY|DOCTOR" Read Scalar;
    "MEMORY|MALLOC-STATS" Read Scalar;
    "MEMORY|STATS" Read Aggregate;
    "MEMORY|HELP" Read Aggregate;
    "MEMORY|PURGE" Idempotent Scalar;
    "MODULE" Never Scalar, look Subcommand;
    "MODULE|LIST" Read Aggregate;
    "MODULE|HELP" Read Aggregate;
    "MODULE|LOAD" Never Scalar;
    "MODULE|LOADEX" Never Scalar;
    "MODULE|UNLOAD" Never Scalar;
    "CLUSTER" Never Unknown, look Subcommand;
    "CLUSTER|INFO" Read Scalar;
    "CLUSTER|NODES" Read Scalar;
    "CLUSTER|MYID" Read Scalar;
    "CLUSTER|MYSHARDID" Read Scalar;
    "CLUSTER|KEYSLOT" Read Scalar;
    "CLUSTER|COUNTKEYSINSLOT" Read Scalar;
    "CLUSTER|COUNT-FAILURE-REPORTS" Read Scalar;
    "CLUSTER|SLOTS" Read Aggregate;
    "CLUSTER|SHARDS" Read Aggregate;
    "CLUSTER|LINKS" Read Aggregate;
    "CLUSTER|REPLICAS" Read Aggregate;
    "CLUSTER|SLAVES" Read Aggregate;
    "CLUSTER|GETKEYSINSLOT" Read Aggregate;
    "CLUSTER|SLOT-STATS" Read Aggregate;
    "CLUSTER|GETSLOTMIGRATIONS" Read Aggregate;
    "CLUSTER|HELP" Read Aggregate;
    "CLUSTER|ADDSLOTS" Never Scalar;
    "CLUSTER|ADDSLOTSRANGE" Never Scalar;
    "CLUSTER|BUMPEPOCH" Never Scalar;
    "CLUSTER|DELSLOTS" Never Scalar;
    "CLUSTER|DELSLOTSRANGE" Never Scalar;
    "CLUSTER|FAILOVER" Never Scalar;
    "CLUSTER|FLUSHSLOTS" Never Scalar;
    "CLUSTER|FLUSHSLOT" Never Scalar;
    "CLUSTER|FORGET" Never Scalar;
    "CLUSTER|MEET" Never Scalar;
    "CLUSTER|MIGRATESLOTS" Never Scalar;
    "CLUSTER|CANCELSLOTMIGRATIONS" Never Scalar;
    "CLUSTER|MIGRATION" Never Scalar;
    "CLUSTER|SYNCSLOTS" Never Scalar;
    "CLUSTER|REPLICATE" Never Scalar;
    "CLUSTER|RESET" Never Scalar;
    "CLUSTER|SAVECONFIG" Never Scalar;
    "CLUSTER|SET-CONFIG-EPOCH" Never Scalar;
    "CLUSTER|SETSLOT" Never Scalar;
    "HOTKEYS" Never Unknown;

    // Keys.
    "EXISTS" Read Scalar;
    "TYPE" Read Scalar;
    "TTL" Read Scalar;
    "PTTL" Read Scalar;
    "EXPIRETIME" Read Scalar;
    "PEXPIRETIME" Read Scalar;
    "DUMP" Read Scalar;
    "RANDOMKEY" Read Scalar;
    "DBSIZE" Read Scalar;
    // The server says so too: only the time of last use changes.
    "TOUCH" Read Scalar;
    "KEYS" Read Aggregate;
    "SCAN" Read Aggregate;
    "OBJECT" Read Scalar, look Subcommand;
    "OBJECT|ENCODING" Read Scalar;
    "OBJECT|FREQ" Read Scalar;
    "OBJECT|IDLETIME" Read Scalar;
    "OBJECT|REFCOUNT" Read Scalar;
    "OBJECT|HELP" Read Aggregate;
    // The second answers 0.
    "DEL" Idempotent Scalar;
    "UNLINK" Idempotent Scalar;
    // Whether it was the first is the answer that a lock waits for.
    "DELEX" Write Scalar;
    "DELIFEQ" Write Scalar;
    // Counts from when it runs.
    "EXPIRE" Write Scalar;
    "PEXPIRE" Write Scalar;
    "EXPIREAT" Idempotent Scalar, look Conditional;
    "PEXPIREAT" Idempotent Scalar, look Conditional;
    "PERSIST" Idempotent Scalar;
    "RENAME" Write Scalar;
    "RENAMENX" Write Scalar;
    "MOVE" Write Scalar;
    "COPY" Write Scalar;
    "RESTORE" Write Scalar;
    "RESTORE-ASKING" Write Scalar;
    "MIGRATE" Write Scalar;
    "SWAPDB" Write Scalar;
    // Would also wipe what was written meanwhile.
    "FLUSHALL" Write Scalar;
    "FLUSHDB" Write Scalar;
    "SORT" Write Aggregate, look Store;
    "SORT_RO" Read Aggregate;

    // Strings and bits.
    "GET" Read Scalar;
    "GETRANGE" Read Scalar;
    "SUBSTR" Read Scalar;
    "STRLEN" Read Scalar;
    "GETBIT" Read Scalar;
    "BITCOUNT" Read Scalar;
    "BITPOS" Read Scalar;
    "DIGEST" Read Scalar;
    "MGET" Read Aggregate;
    "BITFIELD_RO" Read Aggregate;
    "LCS" Read Scalar, look Word("IDX");
    "SET" Idempotent Scalar, look Set;
    // Writes the value whole; its life starts again.
    "SETEX" Idempotent Scalar;
    "PSETEX" Idempotent Scalar;
    "MSET" Idempotent Scalar;
    "SETRANGE" Idempotent Scalar;
    // Whether it was the first is the answer.
    "SETNX" Write Scalar;
    "MSETNX" Write Scalar;
    "MSETEX" Write Scalar;
    "APPEND" Write Scalar;
    "INCR" Write Scalar;
    "INCRBY" Write Scalar;
    "INCRBYFLOAT" Write Scalar;
    "DECR" Write Scalar;
    "DECRBY" Write Scalar;
    // The old value is the answer.
    "GETSET" Write Scalar;
    "GETDEL" Write Scalar;
    "SETBIT" Write Scalar;
    "GETEX" Write Scalar, look Getex;
    "BITFIELD" Write Aggregate, look Bitfield;
    // The target may be a source, here and in what ends in STORE.
    "BITOP" Write Scalar;

    // Hashes.
    "HGET" Read Scalar;
    "HEXISTS" Read Scalar;
    "HLEN" Read Scalar;
    "HSTRLEN" Read Scalar;
    "HGETALL" Read Aggregate;
    "HKEYS" Read Aggregate;
    "HVALS" Read Aggregate;
    "HMGET" Read Aggregate;
    "HSCAN" Read Aggregate;
    "HTTL" Read Aggregate;
    "HPTTL" Read Aggregate;
    "HEXPIRETIME" Read Aggregate;
    "HPEXPIRETIME" Read Aggregate;
    "HRANDFIELD" Read Scalar, look CountAt3;
    "HSET" Idempotent Scalar;
    "HMSET" Idempotent Scalar;
    "HDEL" Idempotent Scalar;
    "HSETNX" Write Scalar;
    "HINCRBY" Write Scalar;
    "HINCRBYFLOAT" Write Scalar;
    // May have FNX or FXX.
    "HSETEX" Write Scalar;
    "HEXPIRE" Write Aggregate;
    "HPEXPIRE" Write Aggregate;
    // May have a condition.
    "HEXPIREAT" Write Aggregate;
    "HPEXPIREAT" Write Aggregate;
    "HPERSIST" Idempotent Aggregate;
    "HGETEX" Write Aggregate;
    "HGETDEL" Write Aggregate;

    // Lists.
    "LLEN" Read Scalar;
    "LINDEX" Read Scalar;
    "LRANGE" Read Aggregate;
    "LPOS" Read Scalar, look Word("COUNT");
    "LSET" Idempotent Scalar;
    "LPUSH" Write Scalar;
    "LPUSHX" Write Scalar;
    "RPUSH" Write Scalar;
    "RPUSHX" Write Scalar;
    "LINSERT" Write Scalar;
    // Positions and counts shift after the first run.
    "LREM" Write Scalar;
    "LTRIM" Write Scalar;
    "LPOP" Write Scalar, look CountAt3;
    "RPOP" Write Scalar, look CountAt3;
    "LMOVE" Write Scalar;
    "RPOPLPUSH" Write Scalar;
    "LMPOP" Write Aggregate;
    "BLPOP" Blocking Aggregate;
    "BRPOP" Blocking Aggregate;
    "BLMPOP" Blocking Aggregate;
    "BLMOVE" Blocking Scalar;
    "BRPOPLPUSH" Blocking Scalar;

    // Sets.
    "SCARD" Read Scalar;
    "SISMEMBER" Read Scalar;
    "SINTERCARD" Read Scalar;
    "SMEMBERS" Read Aggregate;
    "SMISMEMBER" Read Aggregate;
    "SINTER" Read Aggregate;
    "SUNION" Read Aggregate;
    "SDIFF" Read Aggregate;
    "SSCAN" Read Aggregate;
    "SRANDMEMBER" Read Scalar, look CountAt3;
    "SADD" Idempotent Scalar;
    "SREM" Idempotent Scalar;
    "SMOVE" Write Scalar;
    "SINTERSTORE" Write Scalar;
    "SUNIONSTORE" Write Scalar;
    "SDIFFSTORE" Write Scalar;
    "SPOP" Write Scalar, look CountAt3;

    // Sorted sets.
    "ZCARD" Read Scalar;
    "ZCOUNT" Read Scalar;
    "ZLEXCOUNT" Read Scalar;
    "ZSCORE" Read Scalar;
    "ZINTERCARD" Read Scalar;
    "ZRANK" Read Scalar, look CountAt4;
    "ZREVRANK" Read Scalar, look CountAt4;
    "ZMSCORE" Read Aggregate;
    "ZRANGE" Read Aggregate;
    "ZRANGEBYLEX" Read Aggregate;
    "ZRANGEBYSCORE" Read Aggregate;
    "ZREVRANGE" Read Aggregate;
    "ZREVRANGEBYLEX" Read Aggregate;
    "ZREVRANGEBYSCORE" Read Aggregate;
    "ZINTER" Read Aggregate;
    "ZUNION" Read Aggregate;
    "ZDIFF" Read Aggregate;
    "ZSCAN" Read Aggregate;
    "ZRANDMEMBER" Read Scalar, look CountAt3;
    "ZADD" Idempotent Scalar, look Zadd;
    "ZREM" Idempotent Scalar;
    "ZREMRANGEBYLEX" Idempotent Scalar;
    "ZREMRANGEBYSCORE" Idempotent Scalar;
    "ZINCRBY" Write Scalar;
    "ZREMRANGEBYRANK" Write Scalar;
    "ZRANGESTORE" Write Scalar;
    "ZINTERSTORE" Write Scalar;
    "ZUNIONSTORE" Write Scalar;
    "ZDIFFSTORE" Write Scalar;
    "ZPOPMIN" Write Aggregate;
    "ZPOPMAX" Write Aggregate;
    "ZMPOP" Write Aggregate;
    "BZPOPMIN" Blocking Aggregate;
    "BZPOPMAX" Blocking Aggregate;
    "BZMPOP" Blocking Aggregate;

    // Places.
    "GEODIST" Read Scalar;
    "GEOHASH" Read Aggregate;
    "GEOPOS" Read Aggregate;
    "GEOSEARCH" Read Aggregate;
    "GEORADIUS_RO" Read Aggregate;
    "GEORADIUSBYMEMBER_RO" Read Aggregate;
    "GEORADIUS" Write Aggregate, look Store;
    "GEORADIUSBYMEMBER" Write Aggregate, look Store;
    "GEOADD" Idempotent Scalar, look Zadd;
    "GEOSEARCHSTORE" Write Scalar;

    // Counting distinct values.
    "PFADD" Idempotent Scalar;
    "PFMERGE" Idempotent Scalar;
    // The server says so too: it may write its cache.
    "PFCOUNT" Read Scalar;

    // Streams.
    "XLEN" Read Scalar;
    "XRANGE" Read Aggregate;
    "XREVRANGE" Read Aggregate;
    "XPENDING" Read Aggregate;
    "XINFO" Read Aggregate, look Subcommand;
    "XINFO|STREAM" Read Aggregate;
    "XINFO|GROUPS" Read Aggregate;
    "XINFO|CONSUMERS" Read Aggregate;
    "XINFO|HELP" Read Aggregate;
    "XADD" Write Scalar;
    "XACK" Idempotent Scalar;
    "XDEL" Idempotent Scalar;
    "XTRIM" Idempotent Scalar;
    "XSETID" Idempotent Scalar;
    "XDELEX" Idempotent Aggregate;
    "XACKDEL" Idempotent Aggregate;
    "XCFGSET" Idempotent Scalar;
    // Counts a delivery more.
    "XCLAIM" Write Aggregate;
    "XAUTOCLAIM" Write Aggregate;
    "XGROUP" Write Scalar, look Subcommand;
    "XGROUP|CREATE" Write Scalar;
    "XGROUP|CREATECONSUMER" Write Scalar;
    "XGROUP|DELCONSUMER" Write Scalar;
    "XGROUP|DESTROY" Write Scalar;
    "XGROUP|SETID" Idempotent Scalar;
    "XGROUP|HELP" Read Aggregate;
    "XREAD" Blocking Aggregate, look Xread;
    "XREADGROUP" Blocking Aggregate, look Xreadgroup;

    // Vector sets (Redis 8).
    "VCARD" Read Scalar;
    "VDIM" Read Scalar;
    "VGETATTR" Read Scalar;
    "VISMEMBER" Read Scalar;
    "VEMB" Read Aggregate;
    "VINFO" Read Aggregate;
    "VLINKS" Read Aggregate;
    "VSIM" Read Aggregate;
    "VRANGE" Read Aggregate;
    "VRANDMEMBER" Read Scalar, look CountAt3;
    "VADD" Write Scalar;
    "VREM" Idempotent Scalar;
    "VSETATTR" Idempotent Scalar;

    // Modules: what is common and only reads. Others are unknown, hence writes.
    "JSON.GET" Read Unknown;
    "JSON.MGET" Read Unknown;
    "JSON.TYPE" Read Unknown;
    "JSON.STRLEN" Read Unknown;
    "JSON.ARRLEN" Read Unknown;
    "JSON.ARRINDEX" Read Unknown;
    "JSON.OBJLEN" Read Unknown;
    "JSON.OBJKEYS" Read Unknown;
    "JSON.RESP" Read Unknown;
    "FT.SEARCH" Read Unknown;
    "FT.INFO" Read Unknown;
    "FT.EXPLAIN" Read Unknown;
    "FT._LIST" Read Unknown;
    "TS.GET" Read Unknown;
    "TS.MGET" Read Unknown;
    "TS.RANGE" Read Unknown;
    "TS.REVRANGE" Read Unknown;
    "TS.MRANGE" Read Unknown;
    "TS.MREVRANGE" Read Unknown;
    "TS.INFO" Read Unknown;
    "TS.QUERYINDEX" Read Unknown;
    "BF.EXISTS" Read Unknown;
    "BF.MEXISTS" Read Unknown;
    "BF.INFO" Read Unknown;
    "BF.CARD" Read Unknown;
    "CF.EXISTS" Read Unknown;
    "CF.MEXISTS" Read Unknown;
    "CF.COUNT" Read Unknown;
    "CF.INFO" Read Unknown;
    "CMS.QUERY" Read Unknown;
    "CMS.INFO" Read Unknown;
    "TOPK.QUERY" Read Unknown;
    "TOPK.LIST" Read Unknown;
    "TOPK.INFO" Read Unknown;
};

/// For each slot the line's index and one, or 0. At most half full, so that a search ends soon.
pub(super) static SLOTS: [u16; 1024] = {
    let mut slots = [0; 1024];
    let mut line = 0;
    while line < LINES.len() {
        let mut at = slot(LINES[line].name.as_bytes(), b"");
        while slots[at] != 0 {
            at = (at + 1) % slots.len();
        }
        line += 1;
        slots[at] = line as u16;
    }
    assert!(LINES.len() * 2 <= slots.len());
    slots
};

/// The commands whose names have at most 8 bytes, by [`short_slot`]: the packed name and the line. Those that share a
/// slot with an earlier one are missing here.
pub(super) static SHORT: [(u64, u16); 1024] = {
    let mut short = [(0, 0); 1024];
    let mut line = 0;
    while line < LINES.len() {
        let name = LINES[line].name.as_bytes();
        if name.len() <= 8 {
            let at = short_slot(packed(name));
            if short[at].0 == 0 {
                short[at] = (packed(name), line as u16);
            }
        }
        line += 1;
    }
    short
};

/// A name of at most 8 bytes in upper case, as a number.
pub(super) const fn packed(name: &[u8]) -> u64 {
    let mut packed = 0;
    let mut at = 0;
    while at < name.len() {
        packed = packed << 8 | (name[at] & 0xdf) as u64;
        at += 1;
    }
    packed
}

#[inline]
pub(super) const fn short_slot(packed: u64) -> usize {
    (packed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize
}

/// Where the search for `name`, or for `name|sub` unless `sub` is empty, begins.
#[inline]
pub(super) const fn slot(name: &[u8], sub: &[u8]) -> usize {
    let mut hash = mix(0, name);
    if !sub.is_empty() {
        hash = mix(mix(hash, b"|"), sub);
    }
    (hash ^ hash >> 10) as usize % 1024
}

const fn mix(mut hash: u32, bytes: &[u8]) -> u32 {
    let mut at = 0;
    while at < bytes.len() {
        // Without the bit that tells upper from lower case.
        hash = hash.wrapping_mul(33).wrapping_add((bytes[at] & 0xdf) as u32);
        at += 1;
    }
    hash
}
