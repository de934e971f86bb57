//! The threads of a restore and what they share: files to open, pieces to decode, the turn to claim pages.
//!
//! Files are opened newest first by whoever is free; a thread that has opened one waits for its turn, claims the
//! pages that no newer file has, and lays out pieces. The file whose turn it is, is always in somebody's hands, so
//! nobody waits for ever. A small file is decoded by the thread that opened it.

use super::claims::Claims;
use super::piece::{Output, Writer};
use super::source::{Expected, Piece, Source, Sums, named};
use super::{Failure, Options, Progress, lock, with_threads};
use crate::error::{Error, Result};
use crate::ltx::Header;
use crate::store::{FileInfo, Store};
use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Applies the files, newest first, and proves each. Bytes that were fetched.
pub(super) fn run(
    store: &Store,
    files: &[FileInfo],
    newest: Header,
    file: &File,
    path: &Path,
    options: Options<'_>,
) -> std::result::Result<u64, Failure> {
    let (written, fetched) = (AtomicU64::new(0), AtomicU64::new(0));
    let total = u64::from(newest.commit) * u64::from(newest.page_size.get());
    let moved = |wrote, got| {
        let written = written.fetch_add(wrote, Ordering::Relaxed) + wrote;
        let fetched = fetched.fetch_add(got, Ordering::Relaxed) + got;
        (options.progress)(Progress { written, total, fetched });
    };
    let team = Team {
        store,
        files,
        newest,
        out: Output { file, path, commit: newest.commit, wrote: &|bytes| moved(bytes, 0) },
        options,
        fetched: &|bytes| moved(0, bytes),
        claims: Mutex::new(Claims::new(newest.commit, newest.page_size)),
        board: Mutex::new(Board { next: 0, turn: 0, opening: 0, pieces: VecDeque::new(), failed: None }),
        changed: Condvar::new(),
    };
    let done = with_threads(options.threads(), &|| team.work());
    if let Some((e, file)) = lock(&team.board).failed.take() {
        return Err(Failure::of(e, file));
    }
    done?;
    if let Some(pgno) = lock(&team.claims).first_missing() {
        return Err(Failure::Other(Error::Corrupt(format!(
            "page {} of {} is in none of the {} files up to {}: the replica's writer left it out",
            pgno.0,
            newest.commit,
            files.len(),
            newest.span.max
        ))));
    }
    Ok(fetched.into_inner())
}

struct Team<'a> {
    store: &'a Store,
    files: &'a [FileInfo],
    newest: Header,
    out: Output<'a>,
    options: Options<'a>,
    fetched: &'a (dyn Fn(u64) + Sync),
    claims: Mutex<Claims>,
    board: Mutex<Board<'a>>,
    changed: Condvar,
}

/// What is to be done. Everything on it is decided under its lock.
struct Board<'a> {
    /// The next file to be opened.
    next: usize,
    /// The file whose pages are claimed next.
    turn: usize,
    /// Files that are open and have not laid out their pieces.
    opening: usize,
    pieces: VecDeque<Task<'a>>,
    /// The first error, and the file that it is about: everybody stops.
    failed: Option<(Error, Option<&'a FileInfo>)>,
}

/// A piece of a file to be decoded.
struct Task<'a> {
    open: Arc<Open<'a>>,
    number: usize,
    piece: Piece,
}

/// A file whose pieces are being decoded.
struct Open<'a> {
    source: Source<'a>,
    expected: Expected,
    /// What each piece held, and how many are to come.
    sums: Mutex<(Vec<Option<Sums>>, usize)>,
}

enum Job<'a> {
    Open(usize),
    Decode(Task<'a>),
}

impl<'a> Team<'a> {
    fn work(&self) -> Result<()> {
        let mut writer = Writer::new();
        while let Some(job) = self.next()? {
            let (file, result) = match ((self.options.go_on)(), job) {
                (Err(e), _) => (None, Err(e)),
                (Ok(()), Job::Open(i)) => (Some(&self.files[i]), self.open(i, &mut writer)),
                (Ok(()), Job::Decode(task)) => (Some(task.open.source.info), self.decode(task, &mut writer)),
            };
            if let Err(e) = result {
                lock(&self.board).failed.get_or_insert((e.clone(), file));
                self.changed.notify_all();
                return Err(e);
            }
        }
        Ok(())
    }

    /// The next job; `None` when there is nothing left and nothing will come.
    fn next(&self) -> Result<Option<Job<'a>>> {
        let mut board = lock(&self.board);
        loop {
            if let Some((e, _)) = &board.failed {
                return Err(e.clone());
            }
            if let Some(task) = board.pieces.pop_front() {
                return Ok(Some(Job::Decode(task)));
            }
            if board.next < self.files.len() {
                board.next += 1;
                board.opening += 1;
                return Ok(Some(Job::Open(board.next - 1)));
            }
            if board.opening == 0 {
                return Ok(None);
            }
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self, i: usize, writer: &mut Writer) -> Result<()> {
        let source = Source::open(self.store, &self.files[i])?;
        (self.fetched)(source.fetched());
        if source.header.page_size != self.newest.page_size {
            return self.pass_over(i, &source);
        }
        self.await_turn(i)?;
        let (pieces, expected) = {
            let mut claims = lock(&self.claims);
            source.index(|pgno| claims.claim(pgno))?
        };
        let sums = Mutex::new((vec![None; pieces.len()], pieces.len()));
        if pieces.is_empty() {
            expected.prove(&source.header, source.info, &[])?;
        }
        let small = source.whole.is_some();
        let open = Arc::new(Open { source, expected, sums });
        let tasks = pieces.into_iter().enumerate();
        let tasks: VecDeque<Task<'a>> =
            tasks.map(|(number, piece)| Task { open: Arc::clone(&open), number, piece }).collect();
        let (mine, shared) = if small { (tasks, VecDeque::new()) } else { (VecDeque::new(), tasks) };
        self.opened(i, shared);
        mine.into_iter().try_for_each(|task| self.decode(task, writer))
    }

    /// A file from before the pages had their size: of no use, where newer files hold all pages.
    fn pass_over(&self, i: usize, source: &Source<'_>) -> Result<()> {
        self.await_turn(i)?;
        if lock(&self.claims).first_missing().is_some() {
            let text = format!("LTX pages have {} bytes", source.header.page_size.get());
            let text = format!("{text}, those of newer files {}", self.newest.page_size.get());
            return named(source.info, Err(Error::Corrupt(text)));
        }
        self.opened(i, VecDeque::new());
        Ok(())
    }

    /// The next file may claim its pages.
    fn opened(&self, i: usize, mut tasks: VecDeque<Task<'a>>) {
        let mut board = lock(&self.board);
        board.turn = i + 1;
        board.opening -= 1;
        board.pieces.append(&mut tasks);
        self.changed.notify_all();
    }

    fn await_turn(&self, i: usize) -> Result<()> {
        let mut board = lock(&self.board);
        while board.turn != i {
            if let Some((e, _)) = &board.failed {
                return Err(e.clone());
            }
            board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn decode(&self, task: Task<'a>, writer: &mut Writer) -> Result<()> {
        let Task { open, number, piece } = task;
        let source = &open.source;
        let bytes = source.read(piece.range.clone())?;
        if source.whole.is_none() {
            (self.fetched)(bytes.len() as u64);
        }
        let sums = named(source.info, writer.piece(&source.header, &piece, &bytes, &self.out))?;
        let mut found = lock(&open.sums);
        found.0[number] = Some(sums);
        found.1 -= 1;
        if found.1 > 0 {
            return Ok(());
        }
        let all: Vec<Sums> = found.0.iter().flatten().copied().collect();
        open.expected.prove(&source.header, source.info, &all)
    }
}
