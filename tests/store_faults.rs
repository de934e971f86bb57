//! What a store does on bad days: every fault has a name, an end, and does no harm.
//!
//! SeaweedFS behind a proxy that injects faults, and a bucket in memory for what an honest server cannot show.

#[path = "support/dice.rs"]
mod dice;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/stand_in.rs"]
mod stand_in;

use bytes::Bytes;
use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::limits::SINGLE_PUT;
use litestream_engine::ltx::{Level, Span, Txid};
use litestream_engine::store::{Body, FileInfo, Io, Put, ReplicaUrl, Requests, Store};
use memory::{Conditions, Memory};
use proxy::{Fault, Proxy};
use servers::{S3_KEY, Seaweed, free_ports};
use stand_in::Response;
use std::io::Read;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const CREATED: Time = Time(1_795_185_053_360);

/// Long enough for an honest answer on a busy machine, short enough for a test.
const PATIENCE: Duration = Duration::from_secs(3);

fn seaweed() -> &'static Seaweed {
    static SEAWEED: OnceLock<Seaweed> = OnceLock::new();
    SEAWEED.get_or_init(|| {
        let seaweed = Seaweed::start();
        seaweed.bucket("bucket");
        seaweed
    })
}

fn keys(name: &str) -> Option<String> {
    match name {
        "AWS_ACCESS_KEY_ID" => Some(S3_KEY.0.to_string()),
        "AWS_SECRET_ACCESS_KEY" => Some(S3_KEY.1.to_string()),
        _ => None,
    }
}

fn open(path: &str, endpoint: &str) -> Store {
    let url = ReplicaUrl::parse(&format!("s3://bucket/{path}?endpoint={endpoint}")).expect("a URL");
    Store::open(&url, &keys, &Io::new()).expect("opened").with_patience(PATIENCE)
}

/// A store behind a proxy.
fn behind_proxy(path: &str) -> (Proxy, Store) {
    let proxy = Proxy::start(&seaweed().server.address);
    let store = open(path, &proxy.server.endpoint);
    (proxy, store)
}

fn one(txid: u64) -> Span {
    Span::one(Txid(txid))
}

fn noise(length: usize) -> Bytes {
    Bytes::from(dice::noise(1, length))
}

fn put(store: &Store, txid: u64, bytes: &Bytes) -> Result<Put, Error> {
    store.put(Level::RAW, one(txid), CREATED, Body::Bytes(bytes.clone()))
}

fn read_all(store: &Store, file: &FileInfo) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut stream = store.stream(file)?;
    stream.read_to_end(&mut all).map_err(|e| Error::from_read("read", "stream", e))?;
    Ok(all)
}

fn info(txid: u64, size: usize) -> FileInfo {
    FileInfo { level: Level::RAW, span: one(txid), size: size as u64, listed: CREATED }
}

/// Runs and says how long it took.
fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    (act(), began.elapsed())
}

fn assert_unreachable<T: std::fmt::Debug>(what: &str, ended: Result<T, Error>, host: &str) {
    let Err(error @ Error::Unreachable(_)) = &ended else { panic!("{what}: {ended:?}") };
    assert!(error.is_transient(), "{what}");
    let text = error.to_string();
    assert!(text.contains("s3://bucket/") && text.contains(host), "{what} names the replica: {text}");
    assert!(!text.contains(S3_KEY.1), "{what} keeps its secret: {text}");
}

/// Goal: nobody listening is known at once. Method: a port that was free a moment ago.
#[test]
fn a_refused_connection_is_named_at_once() {
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    let store = open("refused", &format!("http://{address}"));
    let (listed, took) = timed(|| store.list(Level::RAW));
    assert_unreachable("list", listed, &address);
    assert_unreachable("put", put(&store, 1, &noise(100)), &address);
    assert_unreachable("read", read_all(&store, &info(1, 100)), &address);
    assert!(took < PATIENCE, "{took:?}");
}

/// Goal: a server that says nothing holds nobody for longer than the patience. Method: it takes every request
/// and never answers; then it is itself again.
#[test]
fn a_hanging_server_is_given_up_and_taken_up_again() {
    let (proxy, store) = behind_proxy("hanging");
    let bytes = noise(3_000_000);
    put(&store, 1, &bytes).expect("a good day first");
    proxy.set(Fault::Hang);
    let limit = PATIENCE + Duration::from_secs(1);
    let (listed, took) = timed(|| store.list(Level::RAW));
    assert_unreachable("list", listed, &proxy.server.address);
    assert!(took < limit, "list took {took:?}");
    let (ended, took) = timed(|| put(&store, 2, &noise(100)));
    assert_unreachable("put", ended, &proxy.server.address);
    assert!(took < limit, "put took {took:?}");
    let (ended, took) = timed(|| read_all(&store, &info(1, bytes.len())));
    assert_unreachable("stream", ended, &proxy.server.address);
    assert!(took < limit, "stream took {took:?}");
    proxy.set(Fault::HangAfter(70_000));
    let (ended, took) = timed(|| store.read(Level::RAW, one(1), None));
    assert_unreachable("read that stops in the middle", ended, &proxy.server.address);
    assert!(took < limit * 2, "read took {took:?}");
    proxy.heal();
    assert!(store.read(Level::RAW, one(1), None).expect("healed") == bytes);
    assert_ne!(put(&store, 2, &noise(100)).expect("healed"), Put::AlreadyThere, "nothing of it had arrived");
}

/// Goal: what advances is never cut, however slow. Method: a body that takes three times the patience.
#[test]
fn a_slow_body_that_advances_is_not_cut() {
    let (proxy, store) = behind_proxy("slow");
    let bytes = noise(600_000);
    put(&store, 1, &bytes).expect("stored");
    proxy.set_for(Fault::Drip(60_000, 900), "GET", "", usize::MAX);
    let (read, took) = timed(|| store.read(Level::RAW, one(1), None));
    assert!(read.expect("read") == bytes);
    assert!(took > PATIENCE * 2, "the test must outlast the patience: {took:?}");
    let read = read_all(&store, &info(1, bytes.len()));
    assert!(read.expect("streamed") == bytes);
}

/// Goal: what a store answers when it is ill may be tried again, and one such answer is, at once. Method: four statuses,
/// for good and once.
#[test]
fn statuses_that_ask_to_wait_are_transient_and_short_ones_go_unnoticed() {
    let (proxy, store) = behind_proxy("statuses");
    for (txid, status, code) in
        [(1, 500, "InternalError"), (2, 503, "SlowDown"), (3, 429, "TooManyRequests"), (4, 502, "")]
    {
        proxy.set(Fault::Status(status, code));
        let ended = put(&store, txid, &noise(100));
        let text = format!("{ended:?}");
        assert_unreachable("put", ended, "");
        assert!(text.contains(&status.to_string()) && text.contains(code), "{text}");
        assert_unreachable("list", store.list(Level::RAW), "");
        proxy.heal();
        assert_eq!(put(&store, txid, &noise(100)).expect("healed"), Put::Stored);
        proxy.set_for(Fault::Status(status, code), "", "", 1);
        assert_eq!(store.list(Level::RAW).expect("one bad answer is tried again").len(), txid as usize);
        proxy.heal();
    }
}

/// Goal: a stream is whole whatever happens to its connections. Method: every GET is cut after 300 kB; then
/// every GET without a byte.
#[test]
fn a_stream_goes_on_where_its_connection_broke() {
    let (proxy, store) = behind_proxy("cut");
    let bytes = noise(7_654_321);
    put(&store, 1, &bytes).expect("stored");
    proxy.set_for(Fault::CutBody(300_000), "GET", "", usize::MAX);
    assert!(read_all(&store, &info(1, bytes.len())).expect("streamed") == bytes, "byte for byte");
    assert!(proxy.server.count("GET") > 20, "it was cut often");
    proxy.set_for(Fault::CutBody(0), "GET", "", usize::MAX);
    let (ended, took) = timed(|| read_all(&store, &info(1, bytes.len())));
    assert_unreachable("a stream that gets nothing", ended, "");
    assert!(took < Duration::from_secs(20), "{took:?}");
    proxy.set_for(Fault::Close, "GET", "", 2);
    assert!(read_all(&store, &info(1, bytes.len())).expect("streamed") == bytes);
}

/// Goal: where the listing and the object disagree, the stream never ends early in silence. Method: one byte too many is
/// asked for.
#[test]
fn a_stream_of_an_object_cut_short_is_corrupt_and_stays_so() {
    let (_proxy, store) = behind_proxy("short");
    put(&store, 1, &noise(5_000_000)).expect("stored");
    let mut stream = store.stream(&info(1, 5_000_001)).expect("a stream");
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).expect_err("one byte is missing");
    assert!(matches!(Error::from_read("read", "x", error), Error::Corrupt(_)));
    let again = stream.read(&mut [0; 10]);
    assert!(again.is_err(), "a broken stream never pretends to have ended: {again:?}");
}

/// Goal: an answer that was lost does no harm. Method: the server stores, and its answer becomes an error or a
/// closed connection; once, and as often as is tried inside one call.
#[test]
fn a_put_whose_answer_was_lost_is_already_there() {
    let (proxy, store) = behind_proxy("lost");
    let bytes = noise(10_000);
    put(&store, 99, &bytes).expect("the probe is behind us");
    for (txid, fault) in [(1, Fault::LoseAnswer(500)), (2, Fault::LoseConnection), (3, Fault::LoseAnswer(503))] {
        proxy.set_for(fault.clone(), "PUT", ".ltx", 1);
        let ended = put(&store, txid, &bytes).expect("tried again inside");
        assert_eq!(ended, Put::AlreadyThere, "{fault:?}");
    }
    proxy.set_for(Fault::LoseAnswer(500), "PUT", ".ltx", usize::MAX);
    assert_unreachable("every answer lost", put(&store, 4, &bytes), "");
    proxy.heal();
    assert_eq!(put(&store, 4, &bytes).expect("healed"), Put::AlreadyThere);
    assert!(matches!(put(&store, 4, &noise(10_001)), Err(Error::Conflict(_))));
}

/// Goal: the same for parts, and no half object ever shows. Method: the completion's answer lost; a part that never comes.
#[test]
fn a_large_put_whose_completion_was_lost_is_already_there() {
    let (proxy, store) = behind_proxy("lost-parts");
    let bytes = noise(SINGLE_PUT as usize + 1);
    let at = |txid| store.put(Level::SNAPSHOT, one(txid), CREATED, Body::Bytes(bytes.clone()));
    assert_eq!(at(9).expect("the probe is behind us"), Put::Stored);
    for (txid, fault) in [(1, Fault::LoseAnswer(500)), (2, Fault::LoseConnection)] {
        proxy.set_for(fault.clone(), "POST", "uploadId", 1);
        assert_eq!(at(txid).expect("tried again inside"), Put::AlreadyThere, "{fault:?}");
    }
    proxy.set_for(Fault::Status(500, "InternalError"), "PUT", "partNumber=2", usize::MAX);
    assert_unreachable("a part that cannot be stored", at(3), "");
    proxy.heal();
    assert!(store.list(Level::SNAPSHOT).expect("listed").iter().all(|file| file.span != one(3)), "no half object");
    assert_eq!(at(3).expect("healed"), Put::Stored);
}

/// Goal: a mistake of a person is no outage. Method: wrong keys, a bucket that does not exist, on two servers.
#[test]
fn wrong_credentials_and_a_missing_bucket_are_refused_and_say_what_to_do() {
    let endpoint = &seaweed().server.endpoint;
    for wrong in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        let url = ReplicaUrl::parse(&format!("s3://bucket/wrong?endpoint={endpoint}")).expect("a URL");
        let env = |name: &str| keys(name).map(|value| if name == wrong { "hunter2".to_string() } else { value });
        let store = Store::open(&url, &env, &Io::new()).expect("opened");
        for ended in [store.list(Level::RAW).map(drop), put(&store, 1, &noise(10)).map(drop)] {
            let Err(Error::Refused(text)) = &ended else { panic!("{wrong}: {ended:?}") };
            assert!(text.contains("403") && text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
            assert!(!text.contains("hunter2") && !text.contains(S3_KEY.1), "{text}");
        }
    }
    let url = ReplicaUrl::parse(&format!("s3://nowhere/app?endpoint={endpoint}")).expect("a URL");
    let store = Store::open(&url, &keys, &Io::new()).expect("opened");
    let listed = store.list(Level::RAW);
    let Err(Error::Refused(text)) = &listed else { panic!("{listed:?}") };
    assert!(text.contains("`nowhere`") && text.contains("does not exist"), "{text}");
    let memory = Memory::start(Conditions::Kept);
    let url = ReplicaUrl::parse(&format!("s3://nowhere/app?endpoint={}", memory.server.endpoint)).expect("a URL");
    let store = Store::open(&url, &keys, &Io::new()).expect("opened");
    for ended in [put(&store, 1, &noise(10)).map(drop), read_all(&store, &info(1, 10)).map(drop)] {
        assert!(matches!(&ended, Err(Error::Refused(text)) if text.contains("`nowhere`")), "{ended:?}");
    }
}

/// Goal: a bucket of another region is refused with the parameter to give. Method: a server that redirects.
#[test]
fn another_region_is_named() {
    let memory = Memory::checking(Conditions::Kept, |_| Some(Response::error(301, "PermanentRedirect")));
    let listed = open("region", &memory.server.endpoint).list(Level::RAW);
    let Err(Error::Refused(text)) = &listed else { panic!("{listed:?}") };
    assert!(text.contains("region="), "{text}");
}

/// Goal: no other server is ever taken for an empty replica, over which a new database would be stored. Method:
/// servers that answer 404, or 200 with some page, to everything.
#[test]
fn another_kind_of_server_is_never_an_empty_replica() {
    let pages = [
        (404, ""),
        (404, "<html><body>not here</body></html>"),
        (200, "<html><body>welcome to the hotel</body></html>"),
        (200, "<?xml version=\"1.0\"?><ok/>"),
        (200, "{}"),
        (200, ""),
        (204, ""),
    ];
    for (status, page) in pages {
        let memory = Memory::checking(Conditions::Kept, move |_| Some(Response::new(status, page)));
        for scheme in ["s3", "gs"] {
            let url = format!("{scheme}://bucket/app?endpoint={}", memory.server.endpoint);
            let url = ReplicaUrl::parse(&url).expect("a URL");
            let env = |name: &str| if name == "GOOGLE_OAUTH_ACCESS_TOKEN" { Some("t".to_string()) } else { keys(name) };
            let store = Store::open(&url, &env, &Io::new()).expect("opened").with_patience(PATIENCE);
            let listed = store.list(Level::RAW);
            assert!(matches!(listed, Err(Error::Refused(_) | Error::Unreachable(_))), "{status} {page}: {listed:?}");
        }
    }
}

/// Goal: a store that lies about conditions is found out and never replaces all the same, as far as looking
/// first goes. Method: a bucket in memory that ignores, or does not know, the condition.
#[test]
fn a_store_that_ignores_conditions_is_looked_at_first_and_called_unfenced() {
    for conditions in [Conditions::Ignored, Conditions::Unknown] {
        let memory = Memory::start(conditions);
        let store = open("liar", &memory.server.endpoint);
        assert_eq!(store.is_fenced(), None, "nobody asked yet");
        let (mine, theirs) = (noise(100), noise(101));
        assert_eq!(put(&store, 1, &mine).expect("stored"), Put::Stored, "{conditions:?}");
        assert_eq!(store.is_fenced(), Some(false), "{conditions:?}");
        assert_eq!(put(&store, 1, &mine).expect("again"), Put::AlreadyThere);
        assert!(matches!(put(&store, 1, &theirs), Err(Error::Conflict(_))));
        let name = format!("liar/0000/{}", one(1).file_name());
        assert_eq!(memory.body(&name).as_deref(), Some(&mine[..]), "nothing was replaced");
        assert_eq!(memory.names(), [name], "the probe is gone");
    }
}

/// Goal: the same for a store that lies about large objects only. Method: a small put, then a large one.
#[test]
fn a_store_that_ignores_conditions_on_parts_only_is_found_out_at_the_first_large_put() {
    let memory = Memory::start(Conditions::IgnoredOnParts);
    let store = open("half", &memory.server.endpoint);
    put(&store, 1, &noise(100)).expect("stored");
    assert_eq!(store.is_fenced(), Some(true));
    let large = noise(SINGLE_PUT as usize + 5);
    let at = |bytes: &Bytes| store.put(Level::SNAPSHOT, one(1), CREATED, Body::Bytes(bytes.clone()));
    assert_eq!(at(&large).expect("stored"), Put::Stored);
    assert_eq!(store.is_fenced(), Some(false));
    assert_eq!(at(&large).expect("again"), Put::AlreadyThere);
    assert!(matches!(at(&noise(SINGLE_PUT as usize + 6)), Err(Error::Conflict(_))));
    assert_eq!(memory.names().len(), 2, "the probes are gone: {:?}", memory.names());
}

/// Goal: requests are money. Method: count them at the store's end for each call, beside our own count.
#[test]
fn each_call_costs_the_requests_it_must() {
    let memory = Memory::start(Conditions::Kept);
    let store = open("cost", &memory.server.endpoint);
    assert_eq!(store.requests(), Requests::default(), "opening asks nothing");
    put(&store, 1, &noise(100)).expect("stored");
    let after_probe = store.requests();
    assert_eq!((after_probe.put, after_probe.delete), (3, 1), "the probe: twice create, once delete");
    for txid in 2..12 {
        put(&store, txid, &noise(100)).expect("stored");
    }
    assert_eq!(store.requests(), Requests { put: 13, ..after_probe }, "one request a file");
    store.list(Level::RAW).expect("listed");
    store.read(Level::RAW, one(1), Some(0..100)).expect("read");
    read_all(&store, &info(1, 100)).expect("streamed");
    store.created(&info(1, 100)).expect("dated");
    let files: Vec<_> = (1..12).map(|txid| (Level::RAW, one(txid))).collect();
    store.delete(&files).expect("deleted");
    let expected = Requests { put: 13, list: 1, get: 2, head: 1, delete: 2, other: 0 };
    assert_eq!(store.requests(), expected);
    assert_eq!(memory.server.seen().len() as u64, expected.total(), "and that is what arrived");
    assert!(memory.names().is_empty());
}

/// Goal: where every name stands, byte for byte. Method: look into the bucket.
#[test]
fn names_and_metadata_are_litestreams() {
    let memory = Memory::start(Conditions::Kept);
    let store = open("a/b", &memory.server.endpoint);
    put(&store, 0x2a, &noise(10)).expect("stored");
    store.put(Level::SNAPSHOT, one(1), CREATED, Body::Bytes(noise(SINGLE_PUT as usize + 1))).expect("stored");
    let names = ["a/b/0000/000000000000002a-000000000000002a.ltx", "a/b/0009/0000000000000001-0000000000000001.ltx"];
    assert_eq!(memory.names(), names);
    for name in names {
        let metadata = memory.metadata(name);
        assert_eq!(metadata, [("x-amz-meta-litestream-timestamp".to_string(), "2026-11-20T14:30:53.36Z".to_string())]);
    }
}

/// Goal: the I/O thread lives as long as a store that used it. Method: two stores of one `Io`.
#[test]
fn the_io_thread_ends_with_its_last_store() {
    let memory = Memory::start(Conditions::Kept);
    let io = Io::new();
    let url = ReplicaUrl::parse(&format!("s3://bucket/io?endpoint={}", memory.server.endpoint)).expect("a URL");
    let stores = [0, 1].map(|_| Store::open(&url, &keys, &io).expect("opened"));
    assert!(!io.is_running(), "opening starts nothing");
    for store in &stores {
        store.list(Level::RAW).expect("listed");
    }
    assert!(io.is_running());
    let [first, second] = stores;
    drop(first);
    assert!(io.is_running());
    let stream = second.stream(&info(1, 10)).expect("a stream");
    drop(second);
    assert!(io.is_running(), "a stream still reads");
    drop(stream);
    assert!(!io.is_running());
    let again = Store::open(&url, &keys, &io).expect("opened");
    again.list(Level::RAW).expect("a new thread serves");
}
