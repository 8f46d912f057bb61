//! Prints `docs/models.md`.
fn main() {
    print!("{}", planish_model::table::page());
}
