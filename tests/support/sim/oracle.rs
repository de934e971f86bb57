//! What the simulated applications committed, by where each commit ends in the WAL: the truth that every restore is held
//! against.

use litestream_engine::ltx::Txid;
use litestream_engine::spool::State;
use litestream_engine::wal::Cursor;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Pages of a database.
pub type Image = Arc<Vec<Vec<u8>>>;

/// A commit's number, from 0: the database as it was before the first.
pub type Number = usize;

#[derive(Default)]
pub struct Oracle {
    images: Vec<Image>,
    cursors: HashMap<Cursor, Number>,
    /// What the database file holds by itself.
    in_file: Number,
    /// What a writer wrote whole and did not publish: a recovery may find it.
    unpublished: Option<(Cursor, Image)>,
    stored: BTreeMap<Txid, Number>,
    /// What a restore says it made, until the file is there to look at.
    by_restore: Option<(Txid, Cursor)>,
    strangers: bool,
}

impl Oracle {
    pub fn new(first: Image) -> Oracle {
        Oracle { images: vec![first], ..Oracle::default() }
    }

    pub fn newest(&self) -> Image {
        Arc::clone(self.images.last().expect("the first image"))
    }

    pub fn commits(&self) -> Number {
        self.images.len() - 1
    }

    pub fn image(&self, number: Number) -> Image {
        Arc::clone(&self.images[number])
    }

    pub fn written(&mut self, cursor: Cursor, image: Image) {
        self.unpublished = Some((cursor, image));
    }

    pub fn committed(&mut self, cursor: Cursor) {
        let (at, image) = self.unpublished.take().expect("it was written");
        assert_eq!(at, cursor);
        self.images.push(image);
        self.cursors.insert(cursor, self.images.len() - 1);
    }

    /// In a rollback-journal mode: the journal is gone.
    pub fn is_committed(&mut self, image: Image) {
        self.images.push(image);
        self.in_file = self.commits();
    }

    /// In a rollback-journal mode no point in a WAL names a commit: what is called stored is known by its content.
    pub fn stored_as(&mut self, txid: Txid, raw: &[u8]) -> Result<(), String> {
        let is = |image: &Image| image.concat() == raw;
        let number = self.images.iter().rposition(is).ok_or(format!("{txid} is none of the states there ever were"))?;
        if let Some((later, least)) = self.stored.range(..txid).next_back()
            && number < *least
        {
            return Err(format!("{txid} is commit {number}, {later} was {least}"));
        }
        match self.stored.insert(txid, number) {
            Some(known) if self.images[known] != self.images[number] => {
                Err(format!("{txid} was commit {known}, now it is {number}"))
            }
            _ => Ok(()),
        }
    }

    /// A recovery found that the WAL ends there; frames behind the last commit may be of a writer that died.
    pub fn recovered(&mut self, cursor: Option<Cursor>) -> Result<(), String> {
        match (cursor, self.unpublished.take()) {
            (Some(cursor), Some((at, image))) if at == cursor => {
                self.images.push(image);
                self.cursors.insert(cursor, self.images.len() - 1);
            }
            (Some(cursor), _) => {
                let found = self.cursors.get(&cursor);
                if found != Some(&self.commits()) {
                    return Err(format!("recovery found {found:?}, {} were committed", self.commits()));
                }
            }
            (None, _) if self.in_file == self.commits() => {}
            (None, _) => return Err(format!("the WAL is empty, and the file holds {} only", self.in_file)),
        }
        Ok(())
    }

    /// A checkpoint is complete.
    pub fn checkpointed(&mut self, cursor: &Cursor) {
        self.in_file = self.cursors[cursor];
    }

    /// A process opens the database that passes no Gate.
    pub fn a_stranger_came(&mut self) {
        self.strangers = true;
    }

    /// True where continuity may have been lost.
    pub fn had_strangers(&self) -> bool {
        self.strangers
    }

    /// The file is gone; what comes next is a restore.
    pub fn lost(&mut self) {
        (self.in_file, self.unpublished) = (self.commits(), None);
    }

    /// The database came back from its replica, or is found as it is, with this content.
    pub fn restored(&mut self, raw: &[u8]) -> Result<Number, String> {
        let is = |image: &Image| image.iter().map(Vec::len).sum::<usize>() == raw.len() && image.concat() == raw;
        let number =
            self.images.iter().rposition(is).ok_or("what was restored is none of the states there ever were")?;
        if let Some(least) = self.stored.values().max()
            && number < *least
        {
            return Err(format!("commit {number} was restored, commit {least} had been called stored"));
        }
        if let Some((txid, cursor)) = self.by_restore.take() {
            self.stored.entry(txid).or_insert(number);
            self.cursors.insert(cursor, number);
        }
        self.images.push(self.image(number));
        (self.in_file, self.unpublished) = (self.commits(), None);
        Ok(number)
    }

    /// True where this transaction is the newest state.
    pub fn is_newest(&self, txid: Txid) -> bool {
        self.of(txid).is_some_and(|number| self.images[number] == self.images[self.commits()])
    }

    /// What a `state` says is stored.
    pub fn stored(&mut self, state: &State) -> Result<(), String> {
        // An image of a closed database, or of one with an empty WAL, has a Cursor of its own.
        if let Some(image) = state.image {
            self.cursors.entry(image).or_insert(self.in_file);
        }
        let Some(cursor) = state.cursor.filter(|_| state.txid > Txid(0)) else { return Ok(()) };
        let known = self.stored.get(&state.txid).copied();
        match (self.cursors.get(&cursor).copied(), known) {
            (Some(number), Some(known)) if self.images[number] != self.images[known] => {
                Err(format!("{} was commit {known}, now it is {number}", state.txid))
            }
            (Some(number), _) => {
                if let Some((earlier, least)) = self.stored.range(..state.txid).next_back()
                    && number < *least
                {
                    return Err(format!("{} is commit {number}, {earlier} was {least}", state.txid));
                }
                self.stored.insert(state.txid, number);
                Ok(())
            }
            (None, Some(known)) => {
                self.cursors.insert(cursor, known);
                Ok(())
            }
            // Its answer never came, and a restore found it.
            (None, None) if state.end.is_some_and(|end| end.cursor == cursor) => {
                self.by_restore = Some((state.txid, cursor));
                Ok(())
            }
            (None, None) => Err(format!("{} is stored up to a point that no commit ended at: {cursor:?}", state.txid)),
        }
    }

    pub fn of(&self, txid: Txid) -> Option<Number> {
        self.stored.get(&txid).copied()
    }

    pub fn all_stored(&self) -> &BTreeMap<Txid, Number> {
        &self.stored
    }
}
