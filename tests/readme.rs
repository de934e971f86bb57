//! Runs the README: what a stranger would paste must work, word for word.
//!
//! A block is run where `<!-- run -->` stands above its fence (`sh` or `python`), all of them in order and in one folder,
//! beside the library and the command line. `<!-- prints -->` above the next block names pieces of lines that the one
//! before it must print.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A block may take this long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Block {
    language: String,
    text: String,
    prints: Vec<String>,
}

/// The marked blocks of a Markdown text.
fn blocks(markdown: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let runs = line == "<!-- run -->";
        if !runs && line != "<!-- prints -->" {
            continue;
        }
        let fence = lines.next().expect("a fence follows its mark");
        let language = fence.strip_prefix("```").expect("a fence stands directly below its mark").to_string();
        let body: Vec<String> = lines.by_ref().take_while(|line| *line != "```").map(str::to_string).collect();
        if runs {
            found.push(Block { language, text: body.join("\n") + "\n", prints: Vec::new() });
        } else {
            found.last_mut().expect("something ran before").prints = body;
        }
    }
    found
}

/// Runs a program until it ends or patience does; what it printed on both streams, and whether it ended well.
fn run(command: &mut Command, folder: &Path) -> (String, bool) {
    let log = folder.join("output.log");
    let file = fs::File::create(&log).unwrap();
    let mut child = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    (fs::read_to_string(&log).unwrap(), status.is_some_and(|status| status.success()))
}

/// Goal: the README is true. Method: its blocks in order, in an empty folder, with Debian's shell and Python.
#[test]
fn the_blocks_of_the_readme_run_and_print_what_they_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built: PathBuf = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let programs = built.parent().unwrap();
    assert!(programs.join("litestream-vfs").exists(), "`make build` makes the command line that the README uses");

    let folder = tempfile::tempdir().unwrap();
    let library = built.join("liblitestream_vfs.so");
    std::os::unix::fs::symlink(&library, folder.path().join("liblitestream_vfs.so")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());

    let blocks = blocks(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(blocks.len() >= 5, "the README's blocks are found: {}", blocks.len());
    for (number, block) in blocks.iter().enumerate() {
        let (program, name) = match block.language.as_str() {
            "sh" => ("bash", format!("{number}.sh")),
            "python" => ("/usr/bin/python3", format!("{number}.py")),
            other => panic!("no way to run `{other}`"),
        };
        let script = folder.path().join(name);
        fs::write(&script, &block.text).unwrap();
        let mut command = Command::new(program);
        if program == "bash" {
            command.arg("-e");
        }
        command.arg(&script).env("PATH", &path).env_remove("LITESTREAM_REPLICA_URL");
        let (output, ended_well) = run(&mut command, folder.path());
        assert!(ended_well, "this block of the README fails:\n\n{}\nIt prints:\n\n{output}", block.text);
        for line in &block.prints {
            assert!(
                output.contains(line.trim()),
                "`{line}` is not printed by:\n\n{}\nIt prints:\n\n{output}",
                block.text
            );
        }
    }
}

/// Goal: a mark that nobody sees would be a block that nobody runs. Method: a small text.
#[test]
fn a_marked_block_is_found_with_what_it_prints() {
    let found =
        blocks("a\n<!-- run -->\n```sh\nls\n```\n\n<!-- prints -->\n```text\nx\ny\n```\n```sh\nnot this\n```\n");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].language.as_str(), found[0].text.as_str()), ("sh", "ls\n"));
    assert_eq!(found[0].prints, ["x", "y"]);
}
