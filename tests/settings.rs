//! What parameters and variables mean, as tables: no file is made, no store is reached.

use litestream_engine::error::Error;
use litestream_engine::registry::Door;
use litestream_engine::settings::{Choice, OnConflict, Origin, Restore, Settings, bytes, duration};
use litestream_engine::store::ReplicaUrl;
use std::path::Path;
use std::time::Duration;

/// Resolves with parameters and variables written as `name=value`.
fn resolve(path: &str, params: &[&str], env: &[&str], door: Door) -> Result<Choice, Error> {
    let split = |pairs: &[&str]| -> Vec<(String, String)> {
        let pairs = pairs.iter().map(|pair| pair.split_once('=').expect("name=value"));
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let (params, env) = (split(params), split(env));
    let env = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Settings::resolve(Path::new(path), &params, &env, door)
}

fn replicated(params: &[&str], env: &[&str]) -> Settings {
    match resolve("/data/app.db", params, env, Door::Named) {
        Ok(Choice::Replicate(settings)) => *settings,
        other => panic!("{params:?} {env:?} must replicate: {other:?}"),
    }
}

fn refused(params: &[&str], env: &[&str]) -> String {
    match resolve("/data/app.db", params, env, Door::Named) {
        Err(Error::Usage(text)) => text,
        other => panic!("{params:?} {env:?} must be refused: {other:?}"),
    }
}

/// Goal: what nobody sets is what README says. Method: the values, and every default of its table given as a parameter.
#[test]
fn defaults_are_those_of_the_documentation() {
    let settings = replicated(&["replica=s3://bucket/app"], &[]);
    assert_eq!(settings.url.to_string(), "s3://bucket/app");
    assert_eq!(settings.origin, Origin::Uri);
    assert_eq!(settings.restore, Restore::Missing);
    assert_eq!(settings.on_conflict, OnConflict::Fail);
    assert_eq!(settings.sync_interval, Duration::from_secs(1));
    assert_eq!(settings.open_timeout, Duration::from_secs(10));
    assert_eq!(settings.restore_timeout, None);
    assert_eq!(settings.shutdown_sync_timeout, Duration::from_secs(30));
    assert_eq!(settings.spool_limit, None);
    assert_eq!(settings.save_ahead, 1 << 20);
    assert_eq!(settings.validation_interval, None);
    let settings = replicated(&["replica=s3://bucket/app", "validation-interval=6h"], &[]);
    assert_eq!(settings.validation_interval, Some(Duration::from_secs(6 * 3600)));
    let settings = replicated(&["replica=s3://bucket/app"], &["LITESTREAM_VALIDATION_INTERVAL=off"]);
    assert_eq!(settings.validation_interval, None);

    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let table = readme.split("## Configuration").nth(1).and_then(|part| part.split("Replica URLs:").next());
    let written = table.expect("the table").split('`').filter(|word| word.contains('=') && !word.contains(' '));
    let open = ["replica=", "restore-timeout=", "spool-limit="]; // no default, or one that is no single value
    let documented: Vec<&str> = written.filter(|word| !open.iter().any(|name| word.starts_with(name))).collect();
    assert_eq!(documented.len(), 12, "{documented:?}");
    let given = [&["replica=s3://bucket/app"], &documented[..]].concat();
    assert_eq!(replicated(&given, &[]), replicated(&["replica=s3://bucket/app"], &[]));
}

/// Goal: every spelling that the documentation promises. Method: the same value by each, and by its variable.
#[test]
fn hyphen_underscore_and_variable_count_the_same() {
    let replica = "replica_url=s3://bucket/app";
    for params in [
        &[replica, "sync-interval=250ms"][..],
        &[replica, "sync_interval=250ms"],
        &["replica-url=s3://bucket/app", "syncInterval=250ms"],
    ] {
        assert_eq!(replicated(params, &[]).sync_interval, Duration::from_millis(250), "{params:?}");
    }
    let env = [
        "LITESTREAM_SYNC_INTERVAL=0",
        "LITESTREAM_RESTORE=required",
        "LITESTREAM_OPEN_TIMEOUT=3s",
        "LITESTREAM_RESTORE_TIMEOUT=1h",
        "LITESTREAM_SHUTDOWN_SYNC_TIMEOUT=0",
        "LITESTREAM_SPOOL_LIMIT=1GiB",
        "LITESTREAM_SAVE_AHEAD=64KiB",
        "LITESTREAM_ON_CONFLICT=keep_local",
    ];
    let settings = replicated(&[replica], &env);
    assert_eq!(settings.sync_interval, Duration::ZERO);
    assert_eq!(settings.restore, Restore::Required);
    assert_eq!(settings.open_timeout, Duration::from_secs(3));
    assert_eq!(settings.restore_timeout, Some(Duration::from_secs(3600)));
    assert_eq!(settings.shutdown_sync_timeout, Duration::ZERO);
    assert_eq!(settings.spool_limit, Some(1 << 30));
    assert_eq!(settings.save_ahead, 64 << 10);
    assert_eq!(settings.on_conflict, OnConflict::KeepLocal);
    let settings = replicated(&[replica, "restore=never", "on-conflict=take-replica", "restore-timeout=off"], &env);
    assert_eq!(settings.restore, Restore::Never, "the URI beats the environment");
    assert_eq!(settings.on_conflict, OnConflict::TakeReplica);
    assert_eq!(settings.restore_timeout, None);
}

/// Goal: a duration is written as Litestream's configuration has it. Method: a table of Go's forms, and of what is none.
#[test]
fn durations_are_those_of_go() {
    let good = [
        ("0", 0),
        ("0s", 0),
        ("1s", 1_000_000_000),
        ("500ms", 500_000_000),
        ("1m30s", 90_000_000_000),
        ("1h", 3_600_000_000_000),
        ("1.5s", 1_500_000_000),
        ("1.1s", 1_100_000_000),
        (".5s", 500_000_000),
        ("10us", 10_000),
        ("10µs", 10_000),
        ("7ns", 7),
        ("1h2m3s", 3_723_000_000_000),
    ];
    for (text, nanos) in good {
        assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
    for text in ["", "1", "10", "s", "1 s", "-1s", "1d", "one", "1s2", "1..5s", ".s", "9999999h", "1S", "∞"] {
        assert!(duration(text).is_err(), "{text}");
    }
}

/// Goal: a size is a number with a unit, decimal or binary. Method: a table, and what is none.
#[test]
fn bytes_have_units() {
    let good = [
        ("0", 0),
        ("4096", 4096),
        ("1KB", 1000),
        ("1k", 1000),
        ("1KiB", 1024),
        ("256MiB", 256 << 20),
        ("1.5GiB", 3 << 29),
        ("2 TB", 2_000_000_000_000),
    ];
    for (text, count) in good {
        assert_eq!(bytes(text), Ok(count), "{text}");
    }
    for text in ["", "MB", "-1", "1XB", "99999999999999999999", "20000000TiB"] {
        assert!(bytes(text).is_err(), "{text}");
    }
}

/// Goal: a wrong value names itself, where it stood, and a right one. Method: a table.
#[test]
fn wrong_values_are_named() {
    let replica = "replica=s3://bucket/app";
    for (params, env, parts) in [
        (&[replica, "sync-interval=10"][..], &[][..], &["sync-interval=10", "500ms"][..]),
        (&[replica, "sync_interval=fast"], &[], &["sync_interval=fast", "1s"]),
        (&[replica], &["LITESTREAM_SYNC_INTERVAL=ten"], &["LITESTREAM_SYNC_INTERVAL=ten", "500ms"]),
        (&[replica, "spool-limit=lots"], &[], &["spool-limit=lots", "256MiB"]),
        (&[replica, "restore=always"], &[], &["restore=always", "missing, never, required"]),
        (&[replica, "on-conflict=win"], &[], &["on-conflict=win", "keep-local"]),
        (&[replica, "durability=replica"], &[], &["durability=replica", "async"]),
        (&[replica, "open-timeout=0"], &[], &["open-timeout", "above zero"]),
        (&["replica=s4://bucket/app"], &[], &["s4", "s3://bucket/app"]),
        (&["replica="], &[], &["empty"]),
        (&["replica=s3://bucket/{dir}"], &[], &["{dir}", "{name}"]),
        (&["replica=s3://bucket/{name"], &[], &["{name"]),
        (&["replica=/backup", "region=eu"], &[], &["region", "folder"]),
    ] {
        let text = refused(params, env);
        for part in parts {
            assert!(text.contains(part), "{params:?} {env:?}: `{part}` is not in `{text}`");
        }
    }
}

/// Goal: a typing mistake never leaves a database unreplicated; no word of others is refused. Method: a table of both.
#[test]
fn what_is_nearly_ours_is_a_mistake_and_the_rest_passes() {
    for (wrong, right) in [
        ("sync_intervall=1s", "sync-interval"),
        ("sync-interal=1s", "sync-interval"),
        ("snyc-interval=1s", "sync-interval"),
        ("replcia=x", "replica"),
        ("replicas=x", "replica"),
        ("replica_uri=x", "replica-url"),
        ("restor=never", "restore"),
        ("onconflit=fail", "on-conflict"),
        ("spool-limits=1", "spool-limit"),
        ("endpont=http://x", "endpoint"),
        ("regoin=eu", "region"),
        ("force-path-stile=1", "force-path-style"),
    ] {
        let text = refused(&["replica=s3://bucket/app", wrong], &[]);
        let name = wrong.split('=').next().expect("a name");
        assert!(text.contains(name) && text.contains(&format!("`{right}`")), "{wrong}: {text}");
    }
    let text = refused(&["replca=s3://bucket/app"], &["LITESTREAM_REPLICA_URL=s3://other/app"]);
    assert!(text.contains("replica"), "also where the environment would do: {text}");
    let others = [
        "replica=s3://bucket/app",
        "vfs=litestream",
        "mode=rwc",
        "cache=shared",
        "psow=1",
        "nolock=0",
        "immutable=0",
        "modeof=x",
        "_journal_mode=WAL",
        "_busy_timeout=5000",
        "_fk=1",
        "_txlock=immediate",
        "timeout=5",
        "pool=5",
        "reaping_frequency=10",
        "version=3",
        "stores=x",
    ];
    assert_eq!(replicated(&others, &[]).url.to_string(), "s3://bucket/app");
}

/// Goal: no replica is an error with its remedy, unless none is wanted. Method: nothing, an empty variable, `off`.
#[test]
fn the_named_vfs_without_a_replica_says_how_to_give_one() {
    let text = refused(&["vfs=litestream"], &[]);
    for part in ["/data/app.db", "file:app.db?vfs=litestream&replica=", "LITESTREAM_REPLICA_URL", "replica=off"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        resolve("/x", &["replica=off"], &["LITESTREAM_REPLICA_URL=s3://b/p"], Door::Named).expect("off"),
        Choice::Off
    );
    assert_eq!(resolve("/x", &[], &["LITESTREAM_REPLICA_URL=off"], Door::Named).expect("off"), Choice::Off);
    assert!(refused(&[], &["LITESTREAM_REPLICA_URL="]).contains("no replica"), "an empty variable is none");
}

/// Goal: SQLite cuts an unescaped URL at `&`; nothing of it is lost. Method: the parameters that it leaves.
#[test]
fn keys_that_sqlite_split_off_find_their_way_back() {
    let settings =
        replicated(&["replica=s3://bucket/app?endpoint=localhost:9000", "region=eu-1", "force_path_style=true"], &[]);
    assert_eq!(
        settings.url.to_string(),
        "s3://bucket/app?endpoint=http://localhost:9000&region=eu-1&force-path-style=true"
    );
    let whole =
        ReplicaUrl::parse("s3://bucket/app?endpoint=localhost:9000&region=eu-1&forcePathStyle=1").expect("a URL");
    assert_eq!(settings.url, whole);
    let settings = replicated(&["endpoint=https://s3.example.com"], &["LITESTREAM_REPLICA_URL=s3://bucket/app"]);
    assert_eq!(settings.url.to_string(), "s3://bucket/app?endpoint=https://s3.example.com");
}

/// Goal: one variable gives each database a replica of its own. Method: names and paths that are nearly the same.
#[test]
fn placeholders_keep_databases_apart() {
    let url = |path: &str, template: &str| match resolve(
        path,
        &[],
        &[&format!("LITESTREAM_REPLICA_URL={template}")],
        Door::Named,
    ) {
        Ok(Choice::Replicate(settings)) => (settings.url.to_string(), settings.origin),
        other => panic!("{path} {template}: {other:?}"),
    };
    let per_database = Origin::EnvironmentPerDatabase;
    assert_eq!(url("/data/app.db", "s3://b/all/{name}"), ("s3://b/all/app.db".to_string(), per_database));
    assert_eq!(url("/data/a b#1?.db", "s3://b/{name}/x"), ("s3://b/a%20b%231%3F.db/x".to_string(), per_database));
    assert_eq!(url("/tmp/t1/app.db", "s3://b/t/{path}"), ("s3://b/t/tmp/t1/app.db".to_string(), per_database));
    assert_eq!(
        url("/tmp/100%.db", "file:///backup/{path}"),
        ("file:///backup/tmp/100%25.db".to_string(), per_database)
    );
    assert_eq!(url("/tmp/100%.db", "/backup/{name}"), ("file:///backup/100%25.db".to_string(), per_database));
    assert_eq!(url("/data/app.db", "s3://b/app"), ("s3://b/app".to_string(), Origin::EnvironmentFirst));
    let names = ["/d/a b", "/d/a%20b", "/d/a+b", "/d/a_b"].map(|path| url(path, "s3://b/{path}?region=x").0);
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "{names:?}");
}

/// Goal: as the default VFS only what a person named is replicated. Method: a table of patterns and paths.
#[test]
fn the_default_vfs_replicates_only_what_is_named() {
    let url = "LITESTREAM_REPLICA_URL=s3://b/{name}";
    let at = |path: &str, env: &[&str]| resolve(path, &[], env, Door::Default);
    assert!(matches!(at("/data/app.db", &[]), Ok(Choice::Unreplicated(_))));
    let Ok(Choice::Unreplicated(reason)) = at("/data/app.db", &[url]) else { panic!("a URL alone names no database") };
    assert!(reason.contains("LITESTREAM_DB"), "{reason}");
    for (pattern, path, named) in [
        ("/data/app.db", "/data/app.db", true),
        ("/data/app.db", "/data/app.db2", false),
        ("/data/app.db", "/data/cache/app.db", false),
        ("/data/*.db", "/data/app.db", true),
        ("/data/*.db", "/data/sub/app.db", false),
        ("/data/*.db", "/data/.db", true),
        ("/data/**/*.db", "/data/app.db", true),
        ("/data/**/*.db", "/data/a/b/app.db", true),
        ("/data/**/*.db", "/database/app.db", false),
        ("/data/**", "/data/a/b/app.db", true),
        ("/**/app.db", "/app.db", true),
        ("/data/app?.db", "/data/app1.db", true),
        ("/data/app?.db", "/data/app.db", false),
        ("/data/app?.db", "/data/app/.db", false),
        ("/data/*/x-*-y.db", "/data/1/x-a-b-y.db", true),
        ("/data/[a].db", "/data/a.db", false),
    ] {
        let choice = at(path, &[url, &format!("LITESTREAM_DB={pattern}")]).expect("resolved");
        assert_eq!(matches!(choice, Choice::Replicate(_)), named, "{pattern} and {path}: {choice:?}");
    }
    let missing = at("/data/app.db", &["LITESTREAM_DB=/data/app.db"]);
    let Err(Error::Usage(text)) = missing else { panic!("a named database without a URL is a mistake: {missing:?}") };
    assert!(text.contains("LITESTREAM_REPLICA_URL"), "{text}");
    let named = resolve("/any.db", &["replica=/backup"], &[], Door::Default).expect("resolved");
    assert!(matches!(named, Choice::Replicate(settings) if settings.origin == Origin::Uri));
}

/// Goal: a pattern through a symlink names the file that SQLite opens by its real path. Method: a linked folder.
#[test]
fn a_pattern_through_a_symlink_names_the_real_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let real = folder.path().canonicalize().expect("resolved").join("real");
    std::fs::create_dir(&real).expect("made");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&real, &link).expect("linked");
    let database = real.join("app.db").display().to_string();
    for pattern in ["app.db", "*.db"] {
        let named = format!("LITESTREAM_DB={}/{pattern}", link.display());
        let choice =
            resolve(&database, &[], &["LITESTREAM_REPLICA_URL=/backup", &named], Door::Default).expect("resolved");
        assert!(matches!(choice, Choice::Replicate(_)), "{named}: {choice:?}");
    }
}

/// Goal: each form of a URL names one place, under one identity, and its own text means the same. Method: a table.
#[test]
fn replica_urls_parse_to_what_they_mean() {
    for (text, shown, identity) in [
        ("s3://bucket/path", "s3://bucket/path", "s3://bucket/path"),
        ("s3://bucket//a/./b/", "s3://bucket/a/b", "s3://bucket/a/b"),
        ("s3://bucket/a%20b", "s3://bucket/a%20b", "s3://bucket/a%20b"),
        ("S3://bucket/p?region=eu-west-1", "s3://bucket/p?region=eu-west-1", "s3://bucket/p"),
        (
            "s3://b/p?endpoint=127.0.0.1:9000",
            "s3://b/p?endpoint=http://127.0.0.1:9000",
            "s3://b/p?endpoint=http://127.0.0.1:9000",
        ),
        (
            "s3://b/p?endpoint=minio.example.com/",
            "s3://b/p?endpoint=https://minio.example.com",
            "s3://b/p?endpoint=https://minio.example.com",
        ),
        (
            "s3://b/p?endpoint=https%3A%2F%2Fs3.example.com&skipVerify=true",
            "s3://b/p?endpoint=https://s3.example.com&skip-verify=true",
            "s3://b/p?endpoint=https://s3.example.com",
        ),
        ("s3://b/p?part-size=5MB&concurrency=4", "s3://b/p", "s3://b/p"),
        ("s3://b.s3.eu-west-1.amazonaws.com/p", "s3://b/p?region=eu-west-1", "s3://b/p"),
        ("s3://b.s3.amazonaws.com/p", "s3://b/p", "s3://b/p"),
        (
            "s3://my.b.nyc3.digitaloceanspaces.com/p",
            "s3://my.b/p?endpoint=https://nyc3.digitaloceanspaces.com&region=nyc3&force-path-style=false",
            "s3://my.b/p?endpoint=https://nyc3.digitaloceanspaces.com",
        ),
        (
            "s3://b.s3.us-west-000.backblazeb2.com/p",
            "s3://b/p?endpoint=https://s3.us-west-000.backblazeb2.com&region=us-west-000&force-path-style=true",
            "s3://b/p?endpoint=https://s3.us-west-000.backblazeb2.com",
        ),
        (
            "s3://b.s3.fr-par.scw.cloud/p",
            "s3://b/p?endpoint=https://s3.fr-par.scw.cloud&region=fr-par&force-path-style=false",
            "s3://b/p?endpoint=https://s3.fr-par.scw.cloud",
        ),
        (
            "s3://b.s3.filebase.com/p",
            "s3://b/p?endpoint=https://s3.filebase.com&region=us-east-1&force-path-style=false",
            "s3://b/p?endpoint=https://s3.filebase.com",
        ),
        (
            "s3://b.localhost:9000/p",
            "s3://b/p?endpoint=http://localhost:9000&force-path-style=true",
            "s3://b/p?endpoint=http://localhost:9000",
        ),
        ("s3://dotted.bucket/p", "s3://dotted.bucket/p", "s3://dotted.bucket/p"),
        (
            "s3://arn:aws:s3:eu-1:123:accesspoint/ap/p/q",
            "s3://ap-123/p/q?endpoint=https://s3-accesspoint.eu-1.amazonaws.com&region=eu-1&force-path-style=false",
            "s3://ap-123/p/q?endpoint=https://s3-accesspoint.eu-1.amazonaws.com",
        ),
        ("gs://bucket", "gs://bucket", "gs://bucket"),
        ("gcs://bucket/p", "gs://bucket/p", "gs://bucket/p"),
        ("abs://container/p", "abs://container/p", "abs://container/p"),
        ("abs://acct@container/p", "abs://acct@container/p", "abs://acct@container/p"),
        ("az://acct@container/p/", "abs://acct@container/p", "abs://acct@container/p"),
        ("file:///var/backup", "file:///var/backup", "file:///var/backup"),
        ("file:/var/backup/", "file:///var/backup", "file:///var/backup"),
        ("file://localhost/var/a%20b", "file:///var/a%20b", "file:///var/a%20b"),
        ("/var/100%", "file:///var/100%25", "file:///var/100%25"),
        ("/var/with:colon", "file:///var/with:colon", "file:///var/with:colon"),
    ] {
        let url = ReplicaUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(url.to_string(), shown, "{text}");
        assert_eq!(url.identity(), identity, "{text}");
        assert_eq!(ReplicaUrl::parse(&url.to_string()).expect("its own text parses"), url, "{text}");
    }
    let here = std::env::current_dir().expect("a current folder");
    for text in ["backup", "./backup"] {
        assert_eq!(ReplicaUrl::parse(text).expect("a relative path").folder(), Some(here.join("backup").as_path()));
    }
}

/// Goal: what is no URL of a replica is refused with a sentence that repeats no secret. Method: a table.
#[test]
fn garbage_urls_are_refused_with_an_example_and_without_secrets() {
    for (text, part) in [
        ("", "empty"),
        ("   ", "empty"),
        ("s3://", "bucket"),
        ("s3:///path", "bucket"),
        ("s3://bucket", "path inside"),
        ("s3:bucket", "path inside"),
        ("s3://bucket/a/../b", ".."),
        ("s3://b/p#x", "%23"),
        ("s3://b/p?endpoint=ftp://x", "ftp"),
        ("s3://b/p?endpoint=http://", "endpoint"),
        ("s3://b/p?colour=red", "colour"),
        ("s3://b/p?forcePathStyle=perhaps", "perhaps"),
        ("s3://b c/p", "bucket"),
        ("s3://key:hunter2@bucket/p", "environment"),
        ("s3://b/p?endpoint=http://key:hunter2@host", "environment"),
        ("s3://bucket:9000/p", "bucket"),
        ("s3://arn:aws:s3:::x", "accesspoint"),
        ("s3://b/%ff", "UTF-8"),
        ("gs://", "bucket"),
        ("abs://", "container"),
        ("abs://a:hunter2@c/p", "account"),
        ("abs://@c/p", "account"),
        ("file://backup/app", "three slashes"),
        ("file:backup", "three slashes"),
        ("file:///x?region=y", "folder"),
        ("http://x/y", "not supported"),
        ("sftp://host/p", "not supported"),
        ("nats://host/p", "not supported"),
        ("ftp://host/p", "ftp"),
        ("s3\u{0}://x", "control"),
        ("mailto:me@example.com", "mailto"),
    ] {
        let error = ReplicaUrl::parse(text).expect_err(text);
        assert!(matches!(error, Error::Usage(_)), "{text}: {error:?}");
        let shown = error.to_string();
        assert!(shown.contains(part), "{text}: `{part}` is not in `{shown}`");
        assert!(!shown.contains("hunter2"), "a secret is repeated: {shown}");
    }
}
