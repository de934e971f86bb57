//! The command line as a person types it: flags with one dash or two, as Go's programs take them.
//!
//! Says what was asked for; whether that is possible is the commands' to say.

use crate::output::Failure;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What the arguments mean.
pub enum Parsed {
    /// Help: print it, all is well.
    Text(String),
    /// A mistake.
    Wrong(Failure),
    /// A command.
    Run(Command),
}

#[derive(Parser)]
#[command(
    name = "litestream-vfs",
    bin_name = "litestream-vfs",
    about = "Restore, list and check replicas of SQLite databases"
)]
#[command(disable_version_flag = true, disable_help_subcommand = false, subcommand_required = true)]
#[command(args_override_self = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

/// A command with its flags.
#[derive(Subcommand)]
pub enum Command {
    /// Restore a database from its replica
    Restore(RestoreFlags),
    /// List the LTX files of a replica
    Ltx(LtxFlags),
    /// List the generations of a replica of Litestream 0.3
    Generations(OlderFlags),
    /// List the snapshots of a replica of Litestream 0.3
    Snapshots(OlderFlags),
    /// List the WAL segments of a replica of Litestream 0.3
    Wal(OlderFlags),
    /// Check every file of a replica, and what can be restored from it
    Verify(VerifyFlags),
    /// Show how far a database of this machine is stored; fails where a person has to act
    Status(StatusFlags),
    /// Print the version
    Version,
}

/// `restore`
#[derive(Args)]
pub struct RestoreFlags {
    /// Where the database shall be
    #[arg(short = 'o', long = "o", value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Restore up to this transaction (16 hex digits)
    #[arg(long, value_name = "HEX", allow_hyphen_values = true)]
    pub txid: Option<String>,
    /// Restore from this generation of Litestream 0.3
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub generation: Option<String>,
    /// Restore up to this WAL of Litestream 0.3 (hexadecimal)
    #[arg(long, value_name = "HEX", allow_hyphen_values = true)]
    pub index: Option<String>,
    /// Restore the newest state strictly before this time (of Litestream 0.3: at this time or before)
    #[arg(long, value_name = "RFC3339", allow_hyphen_values = true)]
    pub timestamp: Option<String>,
    /// Stay, and keep the database up to date with its replica
    #[arg(short = 'f', long = "f")]
    pub follow: bool,
    /// Time between two looks of -f
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, default_value = "1s")]
    pub follow_interval: String,
    /// Do nothing, successfully, where the database exists
    #[arg(long)]
    pub if_db_not_exists: bool,
    /// Do nothing, successfully, where there is no backup
    #[arg(long)]
    pub if_replica_exists: bool,
    /// Replace an existing database, once the restore has succeeded
    #[arg(long)]
    pub force: bool,
    /// Have SQLite check the result before it is put in place: none, quick or full
    #[arg(long, value_name = "MODE", allow_hyphen_values = true, default_value = "none")]
    pub integrity_check: String,
    /// Threads that fetch and decode
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value = "8")]
    pub parallelism: String,
    /// Show what would be fetched, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// The replica
    #[arg(value_name = "URL")]
    pub url: Option<OsString>,
}

/// `verify`
#[derive(Args)]
pub struct VerifyFlags {
    /// Restore each range as well, from its first and to its last transaction, and have SQLite check the result
    #[arg(long)]
    pub full: bool,
    /// Threads that fetch and decode
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value = "8")]
    pub parallelism: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The replica
    #[arg(value_name = "URL")]
    pub url: Option<OsString>,
}

/// `generations`, `snapshots`, `wal`
#[derive(Args)]
pub struct OlderFlags {
    /// Only this generation
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub generation: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The replica
    #[arg(value_name = "URL")]
    pub url: Option<OsString>,
}

/// `status`
#[derive(Args)]
pub struct StatusFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The database
    #[arg(value_name = "PATH")]
    pub database: Option<PathBuf>,
}

/// `ltx`
#[derive(Args)]
pub struct LtxFlags {
    /// Level to list: 0 to 9, or all
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true, default_value = "0")]
    pub level: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// The replica
    #[arg(value_name = "URL")]
    pub url: Option<OsString>,
}

/// Flags that stand alone; `-json=false` is possible all the same.
const SWITCHES: [&str; 7] = ["if-db-not-exists", "if-replica-exists", "force", "dry-run", "json", "full", "f"];

/// Reads the arguments, the program's name left out.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Parsed {
    let mut arguments: Vec<OsString> = arguments.filter_map(doubled).collect();
    if arguments.first().is_some_and(|first| first == "--version") {
        arguments[0] = "version".into();
    }
    match CommandLine::try_parse_from(std::iter::once(OsString::from("litestream-vfs")).chain(arguments)) {
        Ok(line) => Parsed::Run(line.command),
        Err(e) if e.kind() == ErrorKind::DisplayHelp => Parsed::Text(e.to_string()),
        Err(e) => Parsed::Wrong(explain(&e)),
    }
}

/// `-flag` as `--flag`; `-flag=true` for a switch as the switch, `-flag=false` as nothing. `-o`, `-h`, numbers below zero
/// and what is no flag stay as they are.
fn doubled(argument: OsString) -> Option<OsString> {
    let bytes = argument.as_bytes();
    let Some(name) = bytes
        .strip_prefix(b"--")
        .or(bytes.strip_prefix(b"-"))
        .filter(|name| name.len() > 1 && !name[0].is_ascii_digit())
    else {
        return Some(argument);
    };
    let mut parts = name.splitn(2, |&byte| byte == b'=');
    let (flag, value) = (parts.next().unwrap_or_default(), parts.next());
    if SWITCHES.iter().any(|switch| switch.as_bytes() == flag) {
        match value {
            Some(b"true" | b"1" | b"t" | b"T" | b"TRUE" | b"True") => return Some(dashes(flag)),
            Some(b"false" | b"0" | b"f" | b"F" | b"FALSE" | b"False") => return None,
            _ => {}
        }
    }
    Some(dashes(name))
}

fn dashes(name: &[u8]) -> OsString {
    OsString::from_vec([b"--", name].concat())
}

/// A mistake in the words of Litestream, where it has words for it.
fn explain(e: &clap::Error) -> Failure {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let help = "litestream-vfs help".to_string();
    let flag = |text: &str| text.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-').to_string();
    let text = match (e.kind(), context(ContextKind::InvalidSubcommand), context(ContextKind::InvalidArg)) {
        (ErrorKind::InvalidSubcommand, Some(command), _) => format!("litestream-vfs {command}: unknown command"),
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ..) => {
            "no command given".into()
        }
        (ErrorKind::UnknownArgument, _, Some(argument)) if argument.starts_with('-') => {
            let near = context(ContextKind::SuggestedArg).map(flag).filter(|near| near.len() > 1);
            let near = near.map(|near| format!(" (did you mean -{near}?)"));
            format!("flag provided but not defined: -{}{}", flag(argument), near.unwrap_or_default())
        }
        (ErrorKind::UnknownArgument, _, Some(argument)) => format!("too many arguments: {argument}"),
        (ErrorKind::InvalidValue, _, Some(argument)) if context(ContextKind::InvalidValue) == Some("") => {
            format!("flag needs an argument: -{}", flag(argument))
        }
        (ErrorKind::TooManyValues, _, Some(argument)) => {
            let value = context(ContextKind::InvalidValue).unwrap_or_default();
            format!("invalid boolean value {value:?} for -{}: parse error", flag(argument))
        }
        _ => e.to_string().trim_start_matches("error: ").lines().next().unwrap_or_default().to_string(),
    };
    Failure { text, hint: Some(help) }
}

/// An argument as text; arguments of the system need not be any.
pub fn text(argument: &OsStr) -> Result<&str, Failure> {
    argument.to_str().ok_or_else(|| Failure::new(format!("{} is not UTF-8", argument.display())))
}
