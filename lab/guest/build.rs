//! Has Cargo build again when a scenario file comes or goes, which it would not notice by itself.

fn main() {
    println!("cargo::rerun-if-changed=src/scenarios");
}
