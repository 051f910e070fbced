//! What each record and each type of value consists of, as steps: the format itself, with nothing that acts.
//!
//! Sources: the saving and loading functions in `rdb.c` of Redis 2.4 to 8.6 (redis/redis at 39518ac: type 26, opcode
//! 243) and of Valkey to 9; for what Redis 8.8 added (types 27 and 28) Redis's own parser, redis/librdb at 51492ca:
//! `elementStreamLP` and `elementArray` in `src/lib/parser.c`, versions in `src/redisver.h`.

use super::Magic;
use super::blob::Blob;

/// What stands next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// A number.
    Number,
    /// This number.
    Exactly(u64),
    /// So many bytes, at most 16.
    Bytes(u8),
    /// The score of an old sorted set: the length of its text in one byte, the text.
    Score,
    /// A string with this in it.
    String(Content),
    /// A number, then as often all of these.
    Many(&'static [Step]),
    /// A number, then once the first of these, then as often the second.
    Headed(&'static [Step], &'static [Step]),
    /// A node of a list: 1 and a string, or 2 and a listpack.
    Node,
    /// The value of an array's element: its tag and what that says.
    Element,
    /// What a module wrote, item by item, to its end mark.
    Module,
    /// One item of it.
    Item,
}

/// What a string is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The data of users: any string.
    Any,
    /// Any string but the empty one.
    NotEmpty,
    /// The name of a key.
    Key,
    /// The name of what the writer says about itself.
    AuxName,
    /// And what it says.
    AuxValue,
    /// The ID of a stream's entry: 16 bytes.
    StreamId,
    /// A structure of its own.
    Blob(Blob),
}

/// The types as TYPE names them, in the order of [`TYPE_NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
    Module,
    Array,
}

/// Their names.
pub(super) const TYPE_NAMES: [&str; 8] = ["string", "list", "set", "zset", "hash", "stream", "module", "array"];

/// The records that are no keys (`RDB_OPCODE_…`).
pub(super) mod opcode {
    /// Of Redis 8.6: what modules attached to the key that follows.
    pub(in crate::rdb) const KEY_META: u8 = 243;
    /// Of Valkey 9, under the same number: slots that are being imported.
    pub(in crate::rdb) const SLOT_IMPORT: u8 = 243;
    pub(in crate::rdb) const SLOT_INFO: u8 = 244;
    pub(in crate::rdb) const FUNCTION2: u8 = 245;
    pub(in crate::rdb) const FUNCTION_PRE_GA: u8 = 246;
    pub(in crate::rdb) const MODULE_AUX: u8 = 247;
    pub(in crate::rdb) const IDLE: u8 = 248;
    pub(in crate::rdb) const FREQ: u8 = 249;
    pub(in crate::rdb) const AUX: u8 = 250;
    pub(in crate::rdb) const RESIZEDB: u8 = 251;
    pub(in crate::rdb) const EXPIRETIME_MS: u8 = 252;
    pub(in crate::rdb) const EXPIRETIME: u8 = 253;
    pub(in crate::rdb) const SELECTDB: u8 = 254;
    pub(in crate::rdb) const EOF: u8 = 255;
}

use Step::{Bytes, Element, Exactly, Headed, Many, Module, Node, Number, Score};

const ANY: Step = Step::String(Content::Any);
const STREAM_ID: Step = Step::String(Content::StreamId);

/// A listpack or a ziplist of elements, of pairs, of triples.
const LISTPACK: Step = Step::String(Content::Blob(Blob::Listpack(1)));
const LISTPACK_OF_2: Step = Step::String(Content::Blob(Blob::Listpack(2)));
const LISTPACK_OF_3: Step = Step::String(Content::Blob(Blob::Listpack(3)));
const ZIPLIST: Step = Step::String(Content::Blob(Blob::Ziplist(1)));
const ZIPLIST_OF_2: Step = Step::String(Content::Blob(Blob::Ziplist(2)));

/// The magic and the version.
pub(super) const HEADER: &[Step] = &[Bytes(9)];
/// The name of a key, after its type byte.
pub(super) const KEY: &[Step] = &[Step::String(Content::Key)];
/// A module's value or auxiliary data is items without end, until the one that is the end mark.
pub(super) const ITEMS: &[Step] = &[Step::Item];

/// The rest of the record that this byte begins, if it is one.
pub(super) fn record(byte: u8, magic: Magic) -> Option<&'static [Step]> {
    Some(match byte {
        opcode::KEY_META if magic == Magic::Redis => &[Many(&[Bytes(4), Module])],
        // The name of the job, the ranges of slots.
        opcode::SLOT_IMPORT => &[ANY, Many(&[Number, Number])],
        // Slot, keys, keys with an expiry.
        opcode::SLOT_INFO => &[Number, Number, Number],
        opcode::FUNCTION2 => &[ANY],
        // Of 7.0 RC 1 and 2: name, engine, a description or none, code.
        opcode::FUNCTION_PRE_GA => &[ANY, ANY, Many(&[ANY]), ANY],
        // Module and version, an unsigned item with the moment it was written at, its items.
        opcode::MODULE_AUX => &[Number, Exactly(2), Number, Module],
        opcode::IDLE => &[Number],
        opcode::FREQ => &[Bytes(1)],
        opcode::AUX => &[Step::String(Content::AuxName), Step::String(Content::AuxValue)],
        opcode::RESIZEDB => &[Number, Number],
        opcode::EXPIRETIME_MS => &[Bytes(8)],
        opcode::EXPIRETIME => &[Bytes(4)],
        opcode::SELECTDB => &[Number],
        _ => return None,
    })
}

/// The value of this type byte, if it is one (`RDB_TYPE_…`).
pub(super) fn value(kind: u8, magic: Magic) -> Option<(Type, &'static [Step])> {
    Some(match kind {
        0 => (Type::String, &[ANY]),
        1 => (Type::List, &[Many(&[ANY])]),
        2 => (Type::Set, &[Many(&[ANY])]),
        3 => (Type::Zset, &[Many(&[ANY, Score])]),
        4 => (Type::Hash, &[Many(&[ANY, ANY])]),
        5 => (Type::Zset, &[Many(&[ANY, Bytes(8)])]),
        // 6 is the modules of 4.0's release candidates: only the module itself could find its end.
        7 => (Type::Module, &[Number, Module]),
        9 => (Type::Hash, &[Step::String(Content::Blob(Blob::Zipmap))]),
        10 => (Type::List, &[ZIPLIST]),
        11 => (Type::Set, &[Step::String(Content::Blob(Blob::Intset))]),
        12 => (Type::Zset, &[ZIPLIST_OF_2]),
        13 => (Type::Hash, &[ZIPLIST_OF_2]),
        14 => (Type::List, &[Many(&[ZIPLIST])]),
        15 => (Type::Stream, STREAM_1),
        16 => (Type::Hash, &[LISTPACK_OF_2]),
        17 => (Type::Zset, &[LISTPACK_OF_2]),
        18 => (Type::List, &[Many(&[Node])]),
        19 => (Type::Stream, STREAM_2),
        20 => (Type::Set, &[LISTPACK]),
        21 => (Type::Stream, STREAM_3),
        // The same number twice: Valkey 9 writes field, value and time to live; Redis 7.4's release candidates wrote
        // the time to live first.
        22 if magic == Magic::Valkey => (Type::Hash, &[Many(&[ANY, ANY, Bytes(8)])]),
        22 => (Type::Hash, &[Many(&[Number, ANY, ANY])]),
        23 if magic == Magic::Redis => (Type::Hash, &[LISTPACK_OF_3]),
        // Redis 7.4: the earliest time to live first.
        24 if magic == Magic::Redis => (Type::Hash, &[Bytes(8), Many(&[Number, ANY, ANY])]),
        25 if magic == Magic::Redis => (Type::Hash, &[Bytes(8), LISTPACK_OF_3]),
        26 if magic == Magic::Redis => (Type::Stream, STREAM_4),
        27 if magic == Magic::Redis => (Type::Stream, STREAM_5),
        // Where the next one is to be inserted, or nothing; then of each element its index and value.
        28 if magic == Magic::Redis => (Type::Array, &[Headed(&[Many(&[Number])], &[Number, Element])]),
        _ => return None,
    })
}

/// One item of a module, by its number.
pub(super) fn item(number: u64) -> Option<&'static [Step]> {
    Some(match number {
        1 | 2 => &[Number],
        3 => &[Bytes(4)],
        4 => &[Bytes(8)],
        5 => &[ANY],
        _ => return None,
    })
}

/// One node of a list, by its container.
pub(super) fn node(container: u64) -> Option<&'static [Step]> {
    Some(match container {
        1 => &[Step::String(Content::NotEmpty)],
        2 => &[LISTPACK],
        _ => return None,
    })
}

/// The value of an array's element, by its tag: text, integer, floating point, short text.
pub(super) fn element(tag: u64) -> Option<&'static [Step]> {
    Some(match tag {
        0 | 3 => &[ANY],
        1 | 2 => &[Bytes(8)],
        _ => return None,
    })
}

const STREAM_NODE: &[Step] = &[STREAM_ID, LISTPACK];
/// Of a group: ID, time and count of each delivery that was not acknowledged.
const PENDING: Step = Many(&[Bytes(16), Bytes(8), Number]);
/// Of a consumer: the IDs alone.
const OWNED: Step = Many(&[Bytes(16)]);

/// Nodes, length, last ID; groups: name, last ID, pending, consumers: name, when it was seen, what it owns.
const STREAM_1: &[Step] =
    &[Many(STREAM_NODE), Number, Number, Number, Many(&[ANY, Number, Number, PENDING, Many(&[ANY, Bytes(8), OWNED])])];

/// And the first ID, the highest deleted one, the entries ever added; and how many of them a group has read.
const STREAM_2: &[Step] = &[
    Many(STREAM_NODE),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Many(&[ANY, Number, Number, Number, PENDING, Many(&[ANY, Bytes(8), OWNED])]),
];

/// And when a consumer was active.
const STREAM_3: &[Step] = &[
    Many(STREAM_NODE),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Many(&[ANY, Number, Number, Number, PENDING, Many(CONSUMER)]),
];

/// Of an idempotent producer: its ID, and each of its messages' IDs with the entry that it became.
const PRODUCER: &[Step] = &[ANY, Many(&[ANY, Number, Number])];
const CONSUMER: &[Step] = &[ANY, Bytes(8), Bytes(8), OWNED];

/// And at the end how long and how many IDs of messages are remembered, those of each producer, and two counts of them.
const STREAM_4: &[Step] = &[
    Many(STREAM_NODE),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Many(&[ANY, Number, Number, Number, PENDING, Many(CONSUMER)]),
    Number,
    Number,
    Many(PRODUCER),
    Number,
    Number,
];

/// And of a group what was given back and belongs to no consumer.
const STREAM_5: &[Step] = &[
    Many(STREAM_NODE),
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Number,
    Many(&[ANY, Number, Number, Number, PENDING, Many(CONSUMER), OWNED]),
    Number,
    Number,
    Many(PRODUCER),
    Number,
    Number,
];
