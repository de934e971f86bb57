//! Which pages of the database have been given to a file: one bit a page.
//!
//! Files claim newest first, so the first claim of a page is its newest copy.

use crate::page::{PageSize, Pgno};

/// The pages of one database.
pub(super) struct Claims {
    bits: Vec<u64>,
    commit: u32,
    lock: Pgno,
}

impl Claims {
    /// No page is claimed. Memory: a bit for each of `commit` pages.
    pub fn new(commit: u32, page_size: PageSize) -> Claims {
        Claims { bits: vec![0; (commit as usize).div_ceil(64)], commit, lock: page_size.lock_page() }
    }

    /// True for the first who asks, where the page is part of the database.
    pub fn claim(&mut self, pgno: Pgno) -> bool {
        if pgno.0 == 0 || pgno.0 > self.commit {
            return false;
        }
        let (word, bit) = place(pgno);
        let free = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        free
    }

    /// The first page that no file has, the lock page left out.
    pub fn first_missing(&mut self) -> Option<Pgno> {
        self.claim(self.lock);
        let word = self.bits.iter().position(|&word| word != u64::MAX)?;
        let pgno = Pgno(word as u32 * 64 + self.bits[word].trailing_ones() + 1);
        (pgno.0 <= self.commit).then_some(pgno)
    }
}

fn place(pgno: Pgno) -> (usize, u64) {
    let n = pgno.0 - 1;
    ((n / 64) as usize, 1 << (n % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each page is given once, and what is missing is found. Method: sizes around a word, the lock page inside.
    #[test]
    fn a_page_is_given_once_and_the_first_missing_is_named() {
        let size = PageSize::new(65536).expect("a page size");
        for commit in [1, 63, 64, 65, 128, 16384, 16385, 16386] {
            let mut claims = Claims::new(commit, size);
            assert_eq!(claims.first_missing(), Some(Pgno(1)));
            for pgno in 1..=commit {
                let mine = pgno != 16385;
                assert_eq!(claims.claim(Pgno(pgno)), mine, "page {pgno}: the lock page was counted as there");
                assert!(!claims.claim(Pgno(pgno)));
                let next = if pgno + 1 == 16385 { pgno + 2 } else { pgno + 1 };
                assert_eq!(claims.first_missing(), (next <= commit).then_some(Pgno(next)));
            }
            assert!(!claims.claim(Pgno(commit + 1)) && !claims.claim(Pgno(0)));
        }
    }
}
