//! Whatever a peer sends, and in whatever pieces, is the same replies or the same error, and takes memory as it comes.
//!
//! The first byte of the input chooses the pieces.

#![no_main]

mod memory;
mod pieces;

use libfuzzer_sys::fuzz_target;
use pieces::Stream;
use switchmaster::resp::reply::NotAReply;
use switchmaster::wire::{Reply, Wire, encode, parse};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let bound = 64 * 1024 + 256 * bytes.len();
    let (replies, used, broken) = memory::within(bound, || parsed(bytes));
    for pieces in [vec![bytes], bytes.chunks(1).collect(), pieces::pieces(bytes, choice)] {
        let stream = Stream::of(&pieces);
        let (received, end, left) = memory::within(bound, || received(stream));
        assert_eq!(received, replies, "{}", bytes.escape_ascii());
        assert_eq!(end.kind() == std::io::ErrorKind::InvalidData, broken.is_some(), "{end}: {}", bytes.escape_ascii());
        if let Some(broken) = &broken {
            // It may show less of the bytes: not all of them had come.
            let why = |text: &str| text.split(": \"").next().unwrap_or_default().to_owned();
            assert_eq!(why(&end.to_string()), why(&broken.to_string()));
        } else {
            assert!(bytes.ends_with(&left) && (left.len() == bytes.len() - used), "{}", bytes.escape_ascii());
        }
    }
    // What stands in an array of strings is a request as much.
    for reply in &replies {
        let _ = (reply.to_string(), reply.text(), reply.field("name"));
        let words: Option<Vec<&[u8]>> = match reply {
            Reply::Array(items) => {
                items.iter().map(|item| if let Reply::Bulk(word) = item { Some(&word[..]) } else { None }).collect()
            }
            _ => None,
        };
        if let Some(words) = words.filter(|words| !words.is_empty()) {
            let mut request = Vec::new();
            encode(&mut request, &words);
            assert_eq!(parse(&request).unwrap().unwrap(), (reply.clone(), request.len()));
        }
    }
});

/// The replies that are whole, how many bytes they are, and the error after them.
fn parsed(bytes: &[u8]) -> (Vec<Reply>, usize, Option<NotAReply>) {
    let (mut replies, mut at) = (Vec::new(), 0);
    loop {
        match parse(&bytes[at..]) {
            Ok(Some((reply, used))) => {
                assert!(used > 0 && used <= bytes.len() - at);
                at += used;
                replies.push(reply);
            }
            Ok(None) => return (replies, at, None),
            Err(error) => return (replies, at, Some(error)),
        }
    }
}

fn received(stream: Stream) -> (Vec<Reply>, std::io::Error, Vec<u8>) {
    let (mut wire, mut replies) = (Wire::over(stream), Vec::new());
    let end = pieces::block_on(async {
        loop {
            match wire.receive().await {
                Ok(reply) => replies.push(reply),
                Err(error) => return error,
            }
        }
    });
    (replies, end, wire.into_parts().1)
}
