//! The raw clients that the benchmarks compare with.
fn main() {}
