//! A database of real data, tens of megabytes, replicated to each kind of store, lost, and opened again.
//!
//! Debian's largest word list, its ISO codes and licences (packages that `make test` installs, nothing else of the
//! machine), loaded by one script in transactions of many sizes, with a full-text index, updates and deletions.

#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "support/replicated.rs"]
mod replicated;
#[path = "support/servers.rs"]
mod servers;
mod support;

use replicated::{Place, folder, integrity, load, same_pages, sync};
use servers::{AZURITE_ACCOUNT, Azurite, Seaweed};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes that the database has at least.
const LEAST: usize = 20 << 20;
/// For the whole of one store.
const LIMIT: Duration = Duration::from_secs(120);

/// Reads what Debian has and fills a database through the extension, then waits until everything is stored.
const SCRIPT: &str = r#"
import glob, json
load()
db = sqlite3.connect(os.environ['DATABASE'], uri=True, isolation_level=None, timeout=20)
assert db.execute('PRAGMA journal_mode=WAL').fetchone()[0] == 'wal'
db.executescript('''
    PRAGMA synchronous=NORMAL;
    CREATE TABLE word(id INTEGER PRIMARY KEY, word TEXT NOT NULL, length INT, reversed TEXT);
    CREATE INDEX word_reversed ON word(reversed);
    CREATE TABLE code(standard TEXT, code TEXT, name TEXT, entry TEXT, PRIMARY KEY (standard, code)) WITHOUT ROWID;
    CREATE TABLE line(id INTEGER PRIMARY KEY, file TEXT, number INT, text TEXT);
    CREATE VIRTUAL TABLE search USING fts4(word);
''')

def rows(sql, all, size):
    all = list(all)
    for at in range(0, len(all), size):
        db.execute('BEGIN IMMEDIATE')
        db.executemany(sql, all[at:at + size])
        db.execute('COMMIT')

for path in sorted(glob.glob('/usr/share/iso-codes/json/iso_*.json')):
    with open(path, encoding='utf-8') as file:
        ((standard, entries),) = json.load(file).items()
    codes = ((standard, e.get('alpha_4') or e.get('alpha_3') or e.get('code') or e['alpha_2'], e['name'], json.dumps(e, ensure_ascii=False))
             for e in entries)
    rows('INSERT OR REPLACE INTO code VALUES (?, ?, ?, ?)', codes, 500)

lists = ['/usr/share/common-licenses/*', '/usr/share/dict/american-english-huge', '/usr/share/iso-codes/json/*']
files = sorted({os.path.realpath(path) for pattern in lists for path in glob.glob(pattern) if os.path.isfile(path)})
size = 0
for path in files:
    with open(path, encoding='utf-8', errors='replace') as file:
        lines = [line.rstrip('\n') for line in file]
    rows('INSERT INTO line(file, number, text) VALUES (?, ?, ?)', ((path, n, line) for n, line in enumerate(lines)), 20000)
    size += sum(map(len, lines))

words = sorted({word for (text,) in db.execute('SELECT text FROM line') for word in text.split()})
words = [word for word in words if 2 < len(word) < 40]
rows('INSERT INTO word(word, length, reversed) VALUES (?, ?, ?)', ((word, len(word), word[::-1]) for word in words), 3000)
rows('INSERT INTO search(word) VALUES (?)', ((word,) for word in words[::4]), 5000)
db.execute('PRAGMA wal_checkpoint(TRUNCATE)')
for n in range(200):
    db.execute('UPDATE word SET word = upper(word) WHERE id % 997 = ?', (n,))
db.execute('DELETE FROM line WHERE number % 50 = 7')
db.execute('UPDATE code SET entry = upper(entry) WHERE standard = ?', ('639-3',))
txid = db.execute('SELECT litestream_sync(60)').fetchone()[0]
print(txid, len(words), size)
"#;

fn survives_the_loss_of_its_file(replica: &str) {
    let began = Instant::now();
    load();
    let folder = folder();
    let place = Place::new(folder.path(), "real.db", replica);
    let script = format!("os.environ['DATABASE'] = {:?}\n{SCRIPT}", place.uri());
    let said = support::python(folder.path(), &script).ok();
    let stored = said.split(' ').next().unwrap().to_string();
    let before = place.image();
    assert!(before.len() >= LEAST, "only {} bytes of real data: {said}", before.len());
    place.has_images(0..=1);

    place.lose();
    assert!(!place.path.exists() && !place.spool().exists());
    let connection = place.open();
    let words: i64 = connection.query_row("SELECT count(*) FROM word", [], |row| row.get(0)).unwrap();
    assert!(words > 10_000, "{words} words");
    let found: i64 =
        connection.query_row("SELECT count(*) FROM search WHERE word MATCH 'a*'", [], |row| row.get(0)).unwrap();
    assert!(found > 0, "the full-text index is empty");
    same_pages(&before, &place.image());
    assert_eq!(sync(&connection).to_string(), stored, "opening it stored something");
    drop(connection);
    assert_eq!(integrity(&place.path), "ok");
    assert!(began.elapsed() < LIMIT, "took {:?}", began.elapsed());
}

fn url_of(folder: &Path) -> String {
    format!("file://{}", folder.join("replica").display())
}

/// Goal: the main promise, on data that people have, in a folder. Method: the script in Debian's Python, then the
/// file, its WAL, its shared memory and the Spool deleted; opened, it is equal page for page, and sound.
#[test]
fn real_data_survives_in_a_folder() {
    load();
    let folder = folder();
    survives_the_loss_of_its_file(&url_of(folder.path()));
}

/// The same on S3, a real distributed object store.
#[test]
fn real_data_survives_on_s3() {
    load();
    let seaweed = Seaweed::start();
    seaweed.bucket("real");
    let endpoint = &seaweed.server.endpoint;
    survives_the_loss_of_its_file(&format!("s3://real/data?endpoint={endpoint}&region=us-east-1"));
}

/// The same on Azure's dialect.
#[test]
fn real_data_survives_on_azure() {
    load();
    let azurite = Azurite::start();
    azurite.container("real");
    let endpoint = format!("{}/{AZURITE_ACCOUNT}", azurite.server.endpoint);
    survives_the_loss_of_its_file(&format!("abs://{AZURITE_ACCOUNT}@real/data?endpoint={endpoint}"));
}
