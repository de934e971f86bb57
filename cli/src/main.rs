//! `litestream-vfs`, the command line: restore a replica, list it.
//!
//! Flags, texts and exit codes are those that Litestream's users know. All work is the engine's; here are words,
//! files' names and a second pair of eyes (a SQLite of its own for `-integrity-check`).

mod args;
mod check;
mod follow;
mod ltx;
mod older;
mod output;
mod place;
mod progress;
mod replica;
mod restore;
mod status;
mod verify;

use args::{Command, Parsed};
use older::What;
use output::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    output::install_log();
    let result = match args::parse(std::env::args_os().skip(1)) {
        Parsed::Text(text) => output::print(&text),
        Parsed::Wrong(failure) => Err(failure),
        Parsed::Run(Command::Restore(flags)) => restore::run(&flags),
        Parsed::Run(Command::Ltx(flags)) => ltx::run(&flags),
        Parsed::Run(Command::Generations(flags)) => older::run(What::Generations, &flags),
        Parsed::Run(Command::Snapshots(flags)) => older::run(What::Snapshots, &flags),
        Parsed::Run(Command::Wal(flags)) => older::run(What::Wal, &flags),
        Parsed::Run(Command::Verify(flags)) => verify::run(&flags),
        Parsed::Run(Command::Status(flags)) => status::run(&flags),
        Parsed::Run(Command::Version) => output::print(&format!("{}\n", env!("CARGO_PKG_VERSION"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { text, hint }) => {
            eprintln!("Error: {text}");
            if let Some(hint) = hint {
                eprintln!("Try: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
