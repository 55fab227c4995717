//! One seed is one story, in whatever process it is told.

use std::process::Command;

fn told(seed: &str) -> String {
    let program = env!("CARGO_BIN_EXE_groundswell-simulations");
    let output = Command::new(program).args(["replay", seed, "--hosts", "10"]).output();
    String::from_utf8(output.expect("the program runs").stdout).expect("it speaks UTF-8")
}

#[test]
fn one_seed_has_one_trace_in_two_processes() {
    let (one, other) = (told("7"), told("7"));
    assert!(one.contains("trace "), "{one}");
    assert_eq!(one, other);
    assert_ne!(one, told("8"));
}
