//! Every kind of store keeps the same promises: one suite over a folder, S3 (SeaweedFS) and Azure (Azurite).
//!
//! For Google there is no server on loopback that speaks its XML dialect: a bucket in memory stands in.
//! Faults of servers and networks are in `store_faults.rs`.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
mod stand_in;

use bytes::Bytes;
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::limits::SINGLE_PUT;
use litestream_engine::ltx::{Level, Span, Txid};
use litestream_engine::restore::{self, Options};
use litestream_engine::store::{Body, FileInfo, Io, Put, ReplicaUrl, Store};
use memory::{Conditions, Memory};
use servers::{AZURITE_ACCOUNT, Azurite, Seaweed};
use std::io::Read;

const CREATED: Time = Time(1_795_185_053_360);

fn span(min: u64, max: u64) -> Span {
    Span { min: Txid(min), max: Txid(max) }
}

fn noise(seed: u64, length: usize) -> Bytes {
    Bytes::from(dice::noise(seed, length))
}

fn put(store: &Store, level: Level, span: Span, bytes: &Bytes) -> Result<Put, Error> {
    store.put(level, span, CREATED, Body::Bytes(bytes.clone()))
}

fn spans(store: &Store, level: Level) -> Vec<Span> {
    store.list(level).expect("listed").into_iter().map(|file| file.span).collect()
}

fn streamed(store: &Store, file: &FileInfo) -> Vec<u8> {
    let mut all = Vec::new();
    store.stream(file).expect("a stream").read_to_end(&mut all).expect("read to the end");
    all
}

/// The whole suite on a fresh store. `open` opens the same place again, as another process would.
fn keeps_every_promise(open: &dyn Fn() -> Store) {
    let store = open();
    an_empty_place_lists_nothing(&store);
    what_is_put_is_listed_read_and_dated(&store);
    nothing_is_ever_replaced(&store, &open());
    large_files_go_in_parts_and_come_back_whole(&store, &open());
    ranges_are_exact_and_short_objects_are_noticed(&store);
    what_is_missing_is_no_backup(&store);
    deleting_is_by_name_and_may_be_repeated(&store);
    two_writers_of_one_name_leave_one_object(&store, &open());
    assert_eq!(store.is_fenced(), Some(true), "{} keeps conditions", store.url());
}

fn an_empty_place_lists_nothing(store: &Store) {
    for level in Level::all() {
        assert_eq!(store.list(level).expect("an empty list is no error"), Vec::new(), "level {level}");
    }
}

fn what_is_put_is_listed_read_and_dated(store: &Store) {
    let (one, many) = (noise(1, 359), noise(2, 200_000));
    assert_eq!(put(store, Level::RAW, span(3, 3), &many).expect("stored"), Put::Stored);
    assert_eq!(put(store, Level::RAW, span(2, 2), &one).expect("stored"), Put::Stored);
    assert_eq!(put(store, Level::SNAPSHOT, span(1, 1), &one).expect("stored"), Put::Stored);
    assert_eq!(spans(store, Level::RAW), [span(2, 2), span(3, 3)], "in order, whatever the order of puts");
    assert_eq!(spans(store, Level::SNAPSHOT), [span(1, 1)]);
    let files = store.list(Level::RAW).expect("listed");
    assert_eq!((files[0].size, files[1].size), (359, 200_000));
    for file in &files {
        assert_eq!(store.created(file).expect("dated"), CREATED, "to the millisecond");
    }
    assert_eq!(store.read(Level::RAW, span(3, 3), None).expect("read"), many);
    assert_eq!(streamed(store, &files[1]), many);
}

fn nothing_is_ever_replaced(store: &Store, other: &Store) {
    let (mine, theirs) = (noise(3, 5000), noise(4, 5000));
    assert_eq!(put(store, Level::RAW, span(4, 4), &mine).expect("stored"), Put::Stored);
    assert_eq!(put(store, Level::RAW, span(4, 4), &mine).expect("again"), Put::AlreadyThere);
    assert_eq!(put(other, Level::RAW, span(4, 4), &mine).expect("by another"), Put::AlreadyThere);
    for different in [theirs, noise(3, 4999), noise(3, 5001)] {
        let refused = put(other, Level::RAW, span(4, 4), &different);
        let Err(Error::Conflict(text)) = refused else { panic!("other bytes must be a conflict: {refused:?}") };
        assert!(text.contains(&span(4, 4).file_name()), "{text}");
    }
    assert_eq!(store.read(Level::RAW, span(4, 4), None).expect("read"), mine, "and the first bytes stand");
}

fn large_files_go_in_parts_and_come_back_whole(store: &Store, other: &Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image");
    let large = noise(5, SINGLE_PUT as usize + 3_333_333);
    std::fs::write(&path, &large).expect("written");
    let at = |store: &Store| store.put(Level::SNAPSHOT, span(1, 9), CREATED, Body::File(&path));
    assert_eq!(at(store).expect("stored"), Put::Stored);
    assert_eq!(at(other).expect("again"), Put::AlreadyThere);
    let files = store.list(Level::SNAPSHOT).expect("listed");
    let file = files.iter().find(|file| file.span == span(1, 9)).expect("it is listed");
    assert_eq!(file.size, large.len() as u64);
    assert_eq!(store.created(file).expect("dated"), CREATED);
    assert!(streamed(store, file) == large, "byte for byte");
    let mut changed = large.to_vec();
    *changed.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, &changed).expect("written");
    assert!(matches!(at(other), Err(Error::Conflict(_))), "the last byte counts");
    assert!(store.read(Level::SNAPSHOT, span(1, 9), None).expect("read") == large, "and nothing was replaced");
}

fn ranges_are_exact_and_short_objects_are_noticed(store: &Store) {
    let bytes = noise(6, 10_000);
    put(store, Level::RAW, span(5, 5), &bytes).expect("stored");
    let read = |range| store.read(Level::RAW, span(5, 5), Some(range));
    assert_eq!(read(0..100).expect("the start"), bytes.slice(..100));
    assert_eq!(read(9_984..10_000).expect("the end"), bytes.slice(9_984..));
    assert_eq!(read(7..7).expect("nothing"), Bytes::new());
    for beyond in [9_990..10_001, 10_000..10_001, 20_000..20_010] {
        let short = read(beyond.clone());
        assert!(matches!(short, Err(Error::Corrupt(_))), "{beyond:?}: {short:?}");
    }
}

fn what_is_missing_is_no_backup(store: &Store) {
    let missing = store.read(Level::RAW, span(77, 77), None);
    let Err(Error::NoBackup(text)) = &missing else { panic!("{missing:?}") };
    assert!(text.contains(&span(77, 77).file_name()), "{text}");
    let file = FileInfo { level: Level::RAW, span: span(77, 77), size: 10, listed: CREATED };
    assert!(matches!(store.created(&file), Err(Error::NoBackup(_)) | Ok(CREATED)), "a folder asks its listing only");
    let mut out = Vec::new();
    let read = store
        .stream(&file)
        .map_err(|e| e.to_string())
        .and_then(|mut s| s.read_to_end(&mut out).map_err(|e| e.to_string()));
    let text = read.expect_err("a missing object has no bytes");
    assert!(text.contains("does not exist"), "{text}");
}

fn deleting_is_by_name_and_may_be_repeated(store: &Store) {
    for txid in 100..103 {
        put(store, Level::RAW, span(txid, txid), &noise(txid, 50)).expect("stored");
    }
    let both = [(Level::RAW, span(100, 100)), (Level::RAW, span(102, 102))];
    store.delete(&both).expect("deleted");
    store.delete(&both).expect("deleted already");
    assert_eq!(spans(store, Level::RAW).iter().filter(|s| s.min.0 >= 100).count(), 1);
    store.delete(&[(Level::RAW, span(101, 101))]).expect("deleted");
    store.delete(&[]).expect("nothing to delete");
}

fn two_writers_of_one_name_leave_one_object(store: &Store, other: &Store) {
    for round in 0..10 {
        let name = span(200 + round, 200 + round);
        let (a, b) = (noise(round, 20_000), noise(round + 100, 20_000));
        let ended = std::thread::scope(|scope| {
            let first = scope.spawn(|| put(store, Level::RAW, name, &a));
            let second = scope.spawn(|| put(other, Level::RAW, name, &b));
            (first.join().expect("no panic"), second.join().expect("no panic"))
        });
        let there = store.read(Level::RAW, name, None).expect("one of them is there");
        match ended {
            (Ok(Put::Stored), Err(Error::Conflict(_) | Error::Busy(_))) => assert_eq!(there, a),
            (Err(Error::Conflict(_) | Error::Busy(_)), Ok(Put::Stored)) => assert_eq!(there, b),
            other => panic!("exactly one of two writers stores: {other:?}"),
        }
    }
}

/// Goal: a look at a replica asks for the levels that are there, not for all that could be. Method: an empty place, then
/// files at two levels; requests counted.
fn a_look_costs_few_requests(open: &dyn Fn() -> Store) {
    let listed = || {
        let store = open();
        let files = restore::list(&store, Options::default()).expect("listed");
        (files.len(), store.requests().list)
    };
    assert_eq!(listed(), (0, 1), "an empty replica");
    let store = open();
    put(&store, Level::SNAPSHOT, span(1, 1), &noise(1, 200)).expect("stored");
    for n in 2..5 {
        put(&store, Level::RAW, span(n, n), &noise(n, 200)).expect("stored");
    }
    assert_eq!(listed(), (4, 3), "files at two levels");
}

#[test]
fn a_folder_keeps_every_promise() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = ReplicaUrl::parse(&format!("file://{}/replica", folder.path().display())).expect("a URL");
    let io = Io::new();
    keeps_every_promise(&|| Store::open(&url, &|_| None, &io).expect("opened"));
    assert!(!io.is_running(), "a folder needs no I/O thread");
}

#[test]
fn s3_keeps_every_promise() {
    let seaweed = Seaweed::start();
    seaweed.bucket("promises");
    let url = ReplicaUrl::parse(&format!("s3://promises/a/b c?endpoint={}", seaweed.server.endpoint)).expect("a URL");
    let io = Io::new();
    keeps_every_promise(&|| Store::open(&url, &seaweed.env(), &io).expect("opened"));
    let url = ReplicaUrl::parse(&format!("s3://promises/few?endpoint={}", seaweed.server.endpoint)).expect("a URL");
    a_look_costs_few_requests(&|| Store::open(&url, &seaweed.env(), &io).expect("opened"));
    assert!(!io.is_running(), "the I/O thread ends with the last store");
}

#[test]
fn azure_keeps_every_promise() {
    let azurite = Azurite::start();
    azurite.container("promises");
    let text = format!("abs://{AZURITE_ACCOUNT}@promises/a/b?endpoint={}", azurite.server.endpoint);
    let url = ReplicaUrl::parse(&text).expect("a URL");
    let io = Io::new();
    keeps_every_promise(&|| Store::open(&url, &azurite.env(), &io).expect("opened"));
    let few = format!("abs://{AZURITE_ACCOUNT}@promises/few?endpoint={}", azurite.server.endpoint);
    let few = ReplicaUrl::parse(&few).expect("a URL");
    a_look_costs_few_requests(&|| Store::open(&few, &azurite.env(), &io).expect("opened"));
    let name = |text: &str| {
        let url = ReplicaUrl::parse(&format!("{text}?endpoint={}", azurite.server.endpoint)).expect("a URL");
        move |env: &dyn Fn(&str) -> Option<String>| Store::open(&url, env, &Io::new()).expect("opened").list(Level::RAW)
    };
    let missing = name("abs://devstoreaccount1@nowhere/app")(&azurite.env());
    assert!(matches!(&missing, Err(Error::Refused(text)) if text.contains("`nowhere`")), "{missing:?}");
    let wrong =
        name("abs://devstoreaccount1@promises/a/b")(&|key| (key == "AZURE_STORAGE_KEY").then(|| "aHVudGVyMg==".into()));
    assert!(
        matches!(&wrong, Err(Error::Refused(text)) if text.contains("403") && !text.contains("aHVudGVyMg")),
        "{wrong:?}"
    );
    let connection =
        format!("DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={};", servers::AZURITE_KEY);
    let connected =
        name("abs://promises/a/b")(&|key| (key == "AZURE_STORAGE_CONNECTION_STRING").then(|| connection.clone()));
    assert!(!connected.expect("a connection string").is_empty());
}

/// Goal: stores are shared between threads. Method: the compiler.
#[test]
fn a_store_may_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Store>();
    shared::<Io>();
}

/// Goal: Google's names, headers and conditions. Method: a double; what Google itself answers is not shown here.
#[test]
fn google_keeps_every_promise_as_far_as_a_double_can_show() {
    let memory = Memory::start(Conditions::Kept);
    let url = ReplicaUrl::parse(&format!("gs://bucket/a/b?endpoint={}", memory.server.endpoint)).expect("a URL");
    let env = |name: &str| (name == "GOOGLE_OAUTH_ACCESS_TOKEN").then(|| "token".to_string());
    keeps_every_promise(&|| Store::open(&url, &env, &Io::new()).expect("opened"));
    let name = format!("a/b/ltx/9/{}", span(1, 9).file_name());
    assert_eq!(
        memory.metadata(&name),
        [("x-goog-meta-litestream-timestamp".to_string(), "2026-11-20T14:30:53.36Z".to_string())]
    );
    assert!(memory.server.seen().iter().all(|request| request.header("authorization") == Some("Bearer token")));
}

/// Goal: TLS trusts whom it should. Method: a server whose certificate only its own authority signed; that
/// authority named by AWS_CA_BUNDLE, not named, and checking switched off.
#[test]
fn tls_trusts_the_named_authority_and_nobody_unknown() {
    let folder = tempfile::tempdir().expect("a folder");
    let openssl = |args: &str| {
        let run = std::process::Command::new("openssl").args(args.split(' ')).current_dir(folder.path()).output();
        let output = run.expect("openssl is installed");
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem");
    openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr");
    std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").expect("written");
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem");
    let file = |name: &str| folder.path().join(name);
    let (seaweed, endpoint) = Seaweed::start_with_tls(&file("server.pem"), &file("server.key"));
    seaweed.bucket("secure");
    let listed = |query: &str, bundle: Option<String>| {
        let url = ReplicaUrl::parse(&format!("s3://secure/app?endpoint={endpoint}{query}")).expect("a URL");
        let keys = seaweed.env();
        let env = |name: &str| if name == "AWS_CA_BUNDLE" { bundle.clone() } else { keys(name) };
        Store::open(&url, &env, &Io::new()).expect("opened").list(Level::RAW)
    };
    let bundle = file("ca.pem").display().to_string();
    assert_eq!(listed("", Some(bundle)).expect("the named authority"), Vec::new());
    assert_eq!(listed("&skip-verify=true", None).expect("anybody"), Vec::new());
    let unknown = listed("", None);
    let Err(Error::Unreachable(text)) = &unknown else { panic!("{unknown:?}") };
    assert!(text.contains("certificate"), "{text}");
    let missing = listed("", Some("/nowhere/ca.pem".to_string()));
    assert!(missing.expect_err("no such file").to_string().contains("/nowhere/ca.pem"));
}
