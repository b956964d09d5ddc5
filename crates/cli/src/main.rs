//! The `pagemend` command.
fn main() {}
