//! What a model server answers, before it is spelt in the protocol of a connection.

/// One reply, or something said unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(String),
    /// Without the `-`.
    Error(String),
    Number(i64),
    Bulk(Vec<u8>),
    /// No string.
    Nil,
    /// No array.
    NilArray,
    Array(Vec<Reply>),
    Set(Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
    /// A message, confirmation or invalidation: a plain array in RESP2.
    Push(Vec<Reply>),
}

impl Reply {
    pub fn ok() -> Reply {
        Reply::Status("OK".into())
    }

    pub fn error(text: impl Into<String>) -> Reply {
        Reply::Error(text.into())
    }

    pub fn bulk(text: impl AsRef<[u8]>) -> Reply {
        Reply::Bulk(text.as_ref().to_vec())
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_))
    }

    /// Adds it to `out` as a connection of this protocol reads it (Redis 7.0 networking.c).
    pub fn write(&self, resp3: bool, out: &mut Vec<u8>) {
        let mut line = |text: String| out.extend_from_slice(text.as_bytes());
        match self {
            Reply::Status(text) => line(format!("+{text}\r\n")),
            Reply::Error(text) => line(format!("-{text}\r\n")),
            Reply::Number(number) => line(format!(":{number}\r\n")),
            Reply::Nil | Reply::NilArray if resp3 => line("_\r\n".into()),
            Reply::Nil => line("$-1\r\n".into()),
            Reply::NilArray => line("*-1\r\n".into()),
            Reply::Bulk(bytes) => {
                line(format!("${}\r\n", bytes.len()));
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
                let kind = match self {
                    Reply::Set(_) if resp3 => '~',
                    Reply::Push(_) if resp3 => '>',
                    _ => '*',
                };
                line(format!("{kind}{}\r\n", items.len()));
                items.iter().for_each(|item| item.write(resp3, out));
            }
            Reply::Map(pairs) => {
                line(if resp3 { format!("%{}\r\n", pairs.len()) } else { format!("*{}\r\n", 2 * pairs.len()) });
                for (key, value) in pairs {
                    key.write(resp3, out);
                    value.write(resp3, out);
                }
            }
        }
    }
}
