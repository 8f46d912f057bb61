//! Each rule about Rust source: a bad sample is caught at its line, a good one is not.

use super::super::{Finding, Level};
use super::{check, length, name};

const CPU: &str = "crates/cpu/src/gemm.rs";
const MODEL: &str = "crates/model/src/rope.rs";

/// Lines with a finding, in order, in a file that opens as it should.
fn lines(path: &str, body: &str) -> Vec<usize> {
    let mut lines: Vec<_> = check(path, &format!("//! x\n{body}")).iter().map(|f| f.line).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_file_opens_with_what_it_is_for() {
    assert_eq!(check(MODEL, "fn f() {}\n").len(), 1);
    assert_eq!(check(MODEL, "// x\n//! y\n").len(), 1);
    assert_eq!(check(MODEL, "//! x\nfn f() {}\n"), vec![]);
}

#[test]
fn long_files_are_warned_about_and_then_refused() {
    let level = |count: usize| length(MODEL, &"x\n".repeat(count), &[]).map(|f: Finding| f.level);
    assert_eq!(level(400), None);
    assert_eq!(level(401), Some(Level::Warning));
    assert_eq!(level(500), Some(Level::Warning));
    assert_eq!(level(501), Some(Level::Error));
    assert_eq!(length(MODEL, &"x\n".repeat(501), &[(MODEL, "a table")]), None);
}

#[test]
fn names_that_say_nothing_are_refused() {
    assert!(name("crates/cpu/src/utils.rs").is_some());
    assert!(name("crates/cpu/tests/common/mod.rs").is_some());
    assert!(name("scripts/misc.py").is_some());
    assert_eq!(name("crates/cpu/src/scalar.rs"), None);
    assert_eq!(name("crates/checkpoint/tests/data/base/make.py"), None);
    assert_eq!(lines(MODEL, "mod rope;\nmod helpers;\n"), vec![3]);
    assert_eq!(lines(MODEL, "// mod helpers;\nmod helpers_of_none {}\n"), vec![]);
}

#[test]
fn features_are_asked_for_in_one_crate_only() {
    let body = "#[cfg(feature = \"cuda\")]\nfn f() {}\n#[cfg(all(unix, not(feature = \"x\")))]\n\
                fn g() { cfg!(feature = \"y\"); }\n#[cfg_attr(feature = \"z\", inline)]\nfn h() {}\n";
    assert_eq!(lines(MODEL, body), vec![2, 4, 5, 6]);
    assert_eq!(lines("crates/devices/src/open.rs", body), vec![]);
    let fine = "#[cfg(test)]\nmod t {}\n#[cfg(target_feature = \"avx2\")]\nfn feature() {}\n";
    assert_eq!(lines(MODEL, fine), vec![]);
}

#[test]
fn crates_forbid_unsafe_but_three() {
    assert_eq!(lines("crates/model/src/lib.rs", "pub mod x;\n"), vec![1]);
    assert_eq!(lines("crates/model/src/lib.rs", "#![forbid(unsafe_code)]\n"), vec![]);
    assert_eq!(lines("crates/model/src/lib.rs", "// #![forbid(unsafe_code)]\n"), vec![1]);
    assert_eq!(lines("xtask/src/main.rs", "fn main() {}\n"), vec![1]);
    assert_eq!(lines("crates/cpu/src/lib.rs", "pub mod x;\n"), vec![]);
}

#[test]
fn unsafe_stays_in_its_crates() {
    let body = "fn f() {\n    // SAFETY: none\n    unsafe { g() }\n}\n";
    assert_eq!(lines(MODEL, body), vec![4]);
    assert_eq!(lines("crates/model/tests/rope.rs", body), vec![4]);
    assert_eq!(lines(CPU, body), vec![]);
    assert_eq!(lines(MODEL, "/// unsafe { }\nconst S: &str = \"unsafe { }\";\n"), vec![]);
}

#[test]
fn each_unsafe_block_is_argued_for() {
    assert_eq!(lines(CPU, "fn f() {\n    unsafe { g() }\n}\n"), vec![3]);
    assert_eq!(lines(CPU, "unsafe impl Send for A {}\n"), vec![2]);
    assert_eq!(lines(CPU, "/// # Safety\n/// `p` is valid.\nunsafe fn f() {}\n"), vec![]);
    let apart = "fn f() {\n    // SAFETY: a\n    let a = unsafe { g() };\n    let b = unsafe { g() };\n}\n";
    assert_eq!(lines(CPU, apart), vec![5]);
    let wrapped =
        "fn f() {\n    // SAFETY: a,\n    // and b.\n    #[allow(x)]\n    let a =\n        unsafe { g() };\n}\n";
    assert_eq!(lines(CPU, wrapped), vec![]);
}

#[test]
fn unfinished_code_is_refused() {
    assert_eq!(lines(MODEL, "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n"), vec![3]);
    assert_eq!(lines(MODEL, "fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }\n"), vec![2, 3]);
    assert_eq!(lines(MODEL, "/// todo!(later)\nconst S: &str = \"#[ignore]\";\n"), vec![]);
}
