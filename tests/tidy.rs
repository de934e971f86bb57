//! Holds the shape of the code: floors, openings, file sizes, where `unsafe` may stand, and what must never
//! get into the repository or the library.
//!
//! Method: reads the sources as text, with comments and strings taken out where code is meant. It does not
//! judge style; `make lint` does.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floors of the engine, bottom up. A module uses its own floor and the floors below (docs/design.md).
const FLOORS: &[(&str, &[&str])] = &[
    ("ground", &["error", "clock", "limits", "backoff", "sync", "threads", "fault", "base", "names", "mount"]),
    ("formats", &["page", "wal", "walindex", "ltx", "v3"]),
    ("places", &["spool", "store"]),
    ("decisions", &["link", "plan", "manifest", "due", "settings"]),
    (
        "jobs",
        &[
            "kinship",
            "reader",
            "capture",
            "leftover",
            "aside",
            "uploader",
            "image",
            "unread",
            "compactor",
            "retention",
            "restore",
            "verify",
            "follow",
        ],
    ),
    (
        "life",
        &[
            "below",
            "held",
            "board",
            "history",
            "turns",
            "ahead",
            "registry",
            "handover",
            "opening",
            "remains",
            "db",
            "views",
            "room",
            "conn",
            "rollback",
            "worker",
            "leader",
            "leading",
            "finding",
            "copy",
            "report",
            "local",
            "existing",
            "validation",
            "way",
            "forget",
            "rest",
        ],
    ),
];

/// Lines that a source file may have.
const MAX_LINES: usize = 500;

/// Names of folders (and of a worktree's `.git` file) that are not ours to read.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", "__pycache__"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("every path is below the root").display().to_string()
}

/// All files below `folder`, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if SKIPPED.contains(&entry.file_name().to_string_lossy().as_ref()) {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let folder = if folder.is_empty() { root().to_path_buf() } else { root().join(folder) };
    files(&folder).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn assert_none(problems: Vec<String>, advice: &str) {
    assert!(problems.is_empty(), "\n\n  {}\n\n{advice}\n", problems.join("\n  "));
}

/// Source without comments, strings and character literals, so that what is left is code. Lines stay.
fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let skip = |from: usize, to: usize, out: &mut Vec<u8>| {
        out.extend(bytes[from..to.min(bytes.len())].iter().filter(|b| **b == b'\n'));
        to.min(bytes.len())
    };
    while at < bytes.len() {
        let rest = &source.as_bytes()[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let raw_hashes = rest.iter().skip(1).take_while(|b| **b == b'#').count();
        at = if rest.starts_with(b"//") {
            let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            skip(at, at + end, &mut out)
        } else if rest.starts_with(b"/*") {
            let end = rest.windows(2).position(|w| w == b"*/").map_or(rest.len(), |n| n + 2);
            skip(at, at + end, &mut out)
        } else if rest[0] == b'r' && !after_word && rest.get(1 + raw_hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &b"#".repeat(raw_hashes)].concat();
            let body = at + 2 + raw_hashes;
            let end = bytes[body..].windows(close.len()).position(|w| w == close).map_or(bytes.len(), |n| body + n);
            skip(at, end + close.len(), &mut out)
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            skip(at, end + 1, &mut out)
        } else if rest[0] == b'\'' && rest.get(1) == Some(&b'\\') {
            let end = rest.iter().skip(3).position(|b| *b == b'\'').map_or(rest.len(), |n| n + 4);
            skip(at, at + end, &mut out)
        } else if rest[0] == b'\'' && rest.get(2) == Some(&b'\'') {
            skip(at, at + 3, &mut out)
        } else {
            out.push(rest[0]);
            at + 1
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Positions where `word` stands as a whole word.
fn words(code: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| !code[..*at].ends_with(part) && !code[at + word.len()..].starts_with(part))
        .collect()
}

fn identifier(code: &str) -> String {
    code.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The names that stand directly after `crate::`, also inside `crate::{a::b, c}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for at in words(code, "crate") {
        let Some(path) = code[at + "crate".len()..].trim_start().strip_prefix("::") else { continue };
        let Some(group) = path.trim_start().strip_prefix('{') else {
            used.insert(identifier(path));
            continue;
        };
        let mut depth = 1;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => used.extend(Some(identifier(&std::mem::take(&mut item)))),
                _ if depth == 1 => item.push(c),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        used.insert(identifier(&item));
    }
    used.remove("");
    used
}

/// True where `super::` climbs up to the crate's root, which would hide a use of another module.
fn climbs_to_root(code: &str, depth: usize) -> bool {
    let production = code.split("mod tests").next().expect("split gives at least one part");
    let squeezed: String = production.split_whitespace().collect();
    squeezed.contains(&"super::".repeat(depth))
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|(_, modules)| modules.contains(&module))
}

/// What is wrong with one file of the engine.
fn floor_problems(path: &str, source: &str) -> Vec<String> {
    let inside = path.strip_prefix("src/").expect("a file of the engine");
    let parts: Vec<&str> = inside.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let module = parts[0];
    if module == "lib" {
        return Vec::new();
    }
    let Some(floor) = floor_of(module) else {
        return vec![format!("{path}: the module `{module}` stands on no floor yet")];
    };
    let code = code(source);
    let mut problems = Vec::new();
    if climbs_to_root(&code, parts.len()) {
        problems.push(format!("{path}: `super::` climbs to the crate's root; write `crate::…`"));
    }
    for used in used_modules(&code) {
        match floor_of(&used) {
            None => problems.push(format!("{path}: `crate::{used}` is no module on any floor; name the module itself")),
            Some(above) if above > floor => problems.push(format!(
                "{path}: `{module}` ({}) uses `{used}` ({}), a floor above its own",
                FLOORS[floor].0, FLOORS[above].0
            )),
            Some(_) => {}
        }
    }
    problems
}

/// Goal: the engine can be read bottom up. Method: every `crate::` path against the table of floors.
#[test]
fn a_module_uses_only_its_own_floor_and_the_floors_below() {
    let problems = rust_files("src")
        .iter()
        .flat_map(|path| floor_problems(&relative(path), &fs::read_to_string(path).unwrap()))
        .collect();
    assert_none(
        problems,
        "A file of the engine uses its own floor and the floors below (docs/design.md, Floors). What to do: give a new \
         module its place in FLOORS in tests/tidy.rs. Where a lower floor needs something from above, pass it in as an \
         argument, or move the noun that both need down to the floor that owns it.",
    );
}

/// Goal: the table of floors and the picture in docs/design.md stay true. Method: every name in the table is a module,
/// and stands in the picture on the same floor.
#[test]
fn every_floor_holds_the_modules_that_are_there() {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let picture = design.split("## Floors").nth(1).and_then(|part| part.split("```").nth(1)).expect("a picture");
    let starts: Vec<_> =
        FLOORS.iter().rev().map(|(floor, _)| picture.find(&format!("\n {floor} ")).expect("each floor")).collect();
    let mut problems = Vec::new();
    for (n, (floor, modules)) in FLOORS.iter().rev().enumerate() {
        let drawn = &picture[starts[n]..*starts.get(n + 1).unwrap_or(&picture.len())];
        for module in *modules {
            if !root().join(format!("src/{module}.rs")).exists()
                && !root().join(format!("src/{module}/mod.rs")).exists()
            {
                problems.push(format!("FLOORS: there is no module `{module}`"));
            }
            if words(drawn, module).is_empty() {
                problems.push(format!("docs/design.md: `{module}` is not drawn on the floor {floor}"));
            }
        }
    }
    assert_none(
        problems,
        "A module that comes or goes changes FLOORS in tests/tidy.rs and the picture in docs/design.md.",
    );
}

/// Goal: the reader of sources cannot be fooled by strings, comments, groups and nesting. Method: small sources.
#[test]
fn a_use_of_a_higher_floor_is_seen_in_every_way_to_write_it() {
    for source in [
        "use crate::worker::Worker;",
        "use crate::{error::{Error, Result}, worker};",
        "fn f() { crate :: worker :: go() }",
        "let x = '\"'; use crate::worker::W; // \"",
        "let x = r#\"quote \" \"#; crate::worker::go();",
        "use super::worker::Worker;",
    ] {
        assert_eq!(floor_problems("src/plan.rs", source).len(), 1, "{source}");
    }
    for source in [
        "// crate::worker",
        "/* crate::worker */",
        "let s = \"crate::worker\";",
        "use crate::page::Pgno;",
        "my_crate::worker",
    ] {
        assert_eq!(floor_problems("src/plan.rs", source), Vec::<String>::new(), "{source}");
    }
    assert_eq!(floor_problems("src/ltx/name.rs", "use super::Txid;"), Vec::<String>::new());
    assert_eq!(floor_problems("src/ltx/name.rs", "use super::super::worker;").len(), 1);
    assert_eq!(floor_problems("src/helper.rs", "").len(), 1, "a module on no floor is a problem");
}

/// Goal: a stranger learns from the first line what a file is for. Method: the first line of every Rust file.
#[test]
fn every_rust_file_opens_with_what_it_is() {
    let problems = rust_files("")
        .iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| relative(path))
        .collect();
    assert_none(
        problems,
        "A file opens with `//!`: what it is, why it exists, what it does not own. Two to ten lines.",
    );
}

/// Goal: one noun, one file. Method: counts lines.
#[test]
fn no_rust_file_is_longer_than_the_limit() {
    let problems = rust_files("")
        .iter()
        .map(|path| (relative(path), fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect();
    assert_none(
        problems,
        "No file has more than 500 lines. Ask which noun hides in it, and give that noun its own file.",
    );
}

/// Goal: memory safety is one folder's business. Method: the word `unsafe` in code outside of it.
#[test]
fn unsafe_code_stands_only_in_the_extension() {
    let problems = ["src", "cli/src"]
        .iter()
        .flat_map(|folder| rust_files(folder))
        .filter(|path| !words(&code(&fs::read_to_string(path).unwrap()), "unsafe").is_empty())
        .map(|path| relative(&path))
        .collect();
    assert_none(
        problems,
        "`unsafe` belongs into sqlite-ext, in a small block with `// SAFETY:`; the engine sees a trait.",
    );
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![forbid(unsafe_code)]"), "src/lib.rs forbids unsafe code");
}

/// Goal: nothing in the repository points at somebody's machine. Method: looks for such paths in every text.
#[test]
fn no_file_names_a_path_of_a_developers_machine() {
    let forbidden: Vec<String> = [["/ro", "ot/"], ["/tmp/", "wt"], ["/tmp/", "tools"], ["/wo", "rk/"], ["/ho", "me/"]]
        .iter()
        .map(|p| p.concat())
        .collect();
    let mut problems = Vec::new();
    for path in files(root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for word in forbidden.iter().filter(|word| line.contains(word.as_str())) {
                problems.push(format!("{}:{}: `{word}`", relative(&path), number + 1));
            }
        }
    }
    assert_none(problems, "Write paths that mean something on every machine: relative ones, or /var/lib/app.");
}

/// Goal: an error of the system says which file it is about, by its path. Method: no call names it by a word of its own.
#[test]
fn an_error_of_the_system_carries_a_path() {
    let call = ["Error::", "io("].concat();
    let mut problems = Vec::new();
    for path in ["src", "cli/src", "sqlite-ext/src"].into_iter().flat_map(rust_files) {
        let source = fs::read_to_string(&path).unwrap();
        for (at, _) in source.match_indices(&call) {
            let Some(given) = source[at + call.len()..].trim_start().strip_prefix('"') else { continue };
            let Some((what, rest)) = given.split_once('"') else { continue };
            if rest.trim_start_matches([',', ' ', '\n']).starts_with('"') {
                problems.push(format!("{}: {what}", relative(&path)));
            }
        }
    }
    assert_none(
        problems,
        "Give the path, or make the error `unnamed` and have it named `about` the file by who knows it.",
    );
}

/// Goal: the library never brings a second SQLite into a process. Method: sentences that only SQLite's own
/// source has; this test's binary, which bundles SQLite, shows that the search finds them.
#[test]
fn no_second_sqlite_is_inside_the_library() {
    let sentences = [
        ["recovered %d frames ", "from WAL file %s"],
        ["unable to delete/modify user-function ", "due to active statements"],
        ["CREATE TABLE x(type text,name text,", "tbl_name text,rootpage int,sql text)"],
        ["misuse of aggregate: ", "%#T()"],
    ]
    .map(|halves| halves.concat());
    let inside = |path: &Path| -> Vec<String> {
        let bytes = fs::read(path).unwrap();
        let found = |text: &&String| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        sentences.iter().filter(found).cloned().collect()
    };

    rusqlite::Connection::open_in_memory().unwrap().execute_batch("SELECT 1").unwrap();
    let this = std::env::current_exe().unwrap();
    assert!(inside(&this).len() == sentences.len(), "the search finds SQLite where it is: {:?}", inside(&this));

    let library = this.with_file_name("liblitestream_vfs.so");
    assert!(library.exists(), "{} is built beside the tests", library.display());
    assert_eq!(inside(&library), Vec::<String>::new(), "SQLite's own code is in {}", library.display());
}
