//! What a login in a guest consists of, for the programs there that start others' programs: who the user is, and a
//! terminal.

mod terminal;
mod user;

pub use terminal::{Terminal, has_input, resize, signal_foreground};
pub use user::{ROOT_PATH, USER_PATH, User};
