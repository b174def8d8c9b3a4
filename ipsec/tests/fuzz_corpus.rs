//! Every input that the fuzzer found worth keeping, through every entry point: no panic, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../fuzz/entry.rs"]
mod entry;

use std::path::Path;

#[test]
fn the_kept_corpus_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut inputs = 0;
    for (name, run) in entry::ALL {
        for file in std::fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            let input = std::fs::read(file.unwrap().path()).unwrap();
            run(&input);
            // A crash of one may hide in another: they share their parsers.
            entry::datagram(&input);
            entry::chain(&input);
            inputs += 1;
        }
    }
    assert!(inputs >= 40, "{inputs}");
}

#[test]
fn short_and_uniform_inputs() {
    for (_, run) in entry::ALL {
        for len in 0..80 {
            for octet in [0x00, 0x01, 0x2e, 0x7f, 0x80, 0xff] {
                run(&vec![octet; len]);
            }
        }
    }
}
