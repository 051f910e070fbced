//! A replication stream of any bytes: the same effects, findings or error however it arrives, in bounded memory; and a
//! request that stands in it as it was sent is never found absent.
//!
//! The first byte of the input chooses the pieces, the second how many bytes at the end are the new master's own.
//! Each command of the stream is judged as if it were a lost request.

#![no_main]

mod memory;
mod pieces;

use libfuzzer_sys::fuzz_target;
use switchmaster_history::form::{self, Form};
use switchmaster_history::verdict::{Verdict, Sending, LostRequest, judge};
use switchmaster_history::window::{Ancestry, Reach, StreamEffect, Unreadable, Window, WindowReader};

const FIRST: u64 = 1 << 40;
/// Commands that are judged.
const JUDGED: usize = 16;

fuzz_target!(|input: &[u8]| {
    let [choice, promoted, bytes @ ..] = input else { return };
    memory::within(1 << 20 | 64 * bytes.len(), || {
        let promoted = bytes.len() - bytes.len().min(usize::from(*promoted));
        let whole = read(&[bytes], bytes.len(), promoted);
        let cut = read(&pieces::pieces(bytes, *choice), bytes.len(), promoted);
        match (whole, cut) {
            (Ok(whole), Ok(cut)) => {
                assert_eq!(whole.effects(), cut.effects());
                assert_eq!(findings(&whole), findings(&cut));
            }
            (whole, cut) => assert_eq!(whole.err(), cut.err()),
        }
    });
});

fn read(pieces: &[&[u8]], size: usize, promoted: usize) -> Result<Window, Unreadable> {
    let ancestry = Ancestry::default().continuing("replid", FIRST + promoted as u64);
    let mut reader = WindowReader::new(ancestry, FIRST, FIRST + size as u64, 1 << 20)?;
    pieces.iter().try_for_each(|piece| reader.take(piece))?;
    reader.finish()
}

fn findings(window: &Window) -> Vec<Verdict> {
    let effects = window.effects().iter().filter(|effect| effect.reach == Reach::Keys).take(JUDGED);
    let promoted = window.ancestry().end().unwrap();
    let effects = effects.filter(|effect| effect.bytes.end <= promoted);
    let one = |effect: &StreamEffect| {
        let args: Vec<_> = window.arguments(effect).collect();
        let command: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
        let form = form::of(&command);
        let is_its = |trace: &form::Trace| trace.matches(window.arguments(effect));
        let stands = matches!(&form, Form::Traces(traces) if traces.iter().any(is_its)) || form == Form::Anything;
        let request = LostRequest {
            commands: vec![command],
            is_transaction: false,
            database: effect.database.unwrap_or(0),
            sendings: vec![Sending { replid: "replid", after: FIRST }],
            time: None,
        };
        let finding = judge(window, &[request]).remove(0);
        assert!(!stands || finding != Verdict::Absent, "{args:?}");
        finding
    };
    effects.map(one).collect()
}
