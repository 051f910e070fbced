//! The scanner's instructions, counted by callgrind and held below bounds: a count is the same on a busy machine.
//!
//! `resp` imports nothing else of the crate, so it is compiled alone and optimised, which takes a second.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Of `benches/instructions.rs`.
const ROUNDS: f64 = 10_000.0;
const NOTHING: &str = "nothing";

/// What is counted, and how many instructions it may take: some more than it does, for other compilers.
const BOUNDS: [(&str, f64); 9] = [
    ("scan short SET", 110.0),
    ("scan SET", 165.0),
    ("scan GET", 145.0),
    ("scan +OK", 25.0),
    ("scan 100 B", 110.0),
    ("classify GET", 100.0),
    // Of a pipeline, whose requests look alike.
    ("16 GETs", 720.0),
    ("16 SETs", 1000.0),
    ("16 values", 480.0),
];

#[test]
fn the_scanner_takes_few_instructions() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        // Past the harness, which keeps what a passing test says.
        let note = "SKIPPED: instructions are not counted without valgrind (apt-get install valgrind)\n";
        let _ = fs::write("/dev/stderr", note);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = dir.path().join("lib.rs");
    fs::write(&root, format!("#[path = {:?}]\npub mod resp;\n", project.join("crates/protocol/src/resp/mod.rs")))
        .unwrap();
    let library = dir.path().join("libswitchmaster.rlib");
    let program = dir.path().join("instructions");
    compile(&[&"--crate-type=rlib", &"--crate-name=switchmaster", &root, &"-o", &library]);
    let external = format!("--extern=switchmaster={}", library.display());
    compile(&[&project.join("benches/instructions.rs"), &external, &"-o", &program]);

    let nothing = count(&program, NOTHING);
    let mut wrong = Vec::new();
    for (case, bound) in BOUNDS {
        let each = (count(&program, case) - nothing) / ROUNDS;
        println!("{case:<16} {each:>6.1} instructions, at most {bound}");
        // Hardly any at all would mean that the loop is gone.
        if !(5.0..=bound).contains(&each) {
            wrong.push(format!("{case} takes {each:.1} instructions, and may take {bound}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn compile(arguments: &[&dyn AsRef<OsStr>]) {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition=2024", "-Copt-level=3", "-Ccodegen-units=1"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The instructions of the whole program.
fn count(program: &Path, case: &str) -> f64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).arg(case);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    counted.unwrap_or_else(|| panic!("no count in {said}"))
}
