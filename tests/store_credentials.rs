//! Where credentials come from: stand-ins on loopback for the services that machines, containers and clusters ask.
//!
//! The store is a bucket in memory that accepts one key and one token, and may change its mind.

#[path = "support/memory.rs"]
mod memory;
#[path = "support/stand_in.rs"]
mod stand_in;

use litestream_engine::clock::Time;
use litestream_engine::error::Error;
use litestream_engine::ltx::{Level, Span, Txid};
use litestream_engine::store::{Body, Io, Put, ReplicaUrl, Store};
use memory::{Conditions, Memory};
use stand_in::{Act, Request, Response, StandIn};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A bucket that lets in whoever shows `Credential=KEY/` and the token, both as they are at the moment.
fn guarded(accepted: &Arc<Mutex<(String, Option<String>)>>) -> Memory {
    let accepted = Arc::clone(accepted);
    Memory::checking(Conditions::Kept, move |request| {
        let (key, token) = accepted.lock().expect("whole").clone();
        let signed = request.header("authorization").unwrap_or("").contains(&format!("Credential={key}/"));
        let shown = request.header("x-amz-security-token").map(str::to_string);
        match (signed, shown == token) {
            (true, true) => None,
            (true, false) => Some(Response::error(400, "ExpiredToken")),
            _ => Some(Response::error(403, "InvalidAccessKeyId")),
        }
    })
}

fn accepts(key: &str, token: Option<&str>) -> Arc<Mutex<(String, Option<String>)>> {
    Arc::new(Mutex::new((key.to_string(), token.map(str::to_string))))
}

fn open(memory: &Memory, env: &[(&str, &str)]) -> Store {
    let url = ReplicaUrl::parse(&format!("s3://bucket/app?endpoint={}", memory.server.endpoint)).expect("a URL");
    let env = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    Store::open(&url, &env, &Io::new()).expect("opened").with_patience(Duration::from_secs(5))
}

fn put(store: &Store, txid: u64) -> Result<Put, Error> {
    store.put(Level::RAW, Span::one(Txid(txid)), Time(0), Body::Bytes(vec![7; 100].into()))
}

fn in_seconds(seconds: i64) -> String {
    Time(Time::now().0 + seconds * 1000).rfc3339()
}

/// Credentials as machines and containers hand them out.
fn document(key: &str, token: &str, expires: &str) -> Response {
    Response::new(
        200,
        format!(
            r#"{{"Code":"Success","AccessKeyId":"{key}","SecretAccessKey":"s","Token":"{token}","Expiration":"{expires}","LastUpdated":"{expires}"}}"#
        ),
    )
}

/// A metadata service of a machine, version 2. `current` is the token that it hands out and its lifetime in seconds.
fn machine(current: Arc<Mutex<(&'static str, i64)>>) -> StandIn {
    StandIn::start(move |request: &Request| {
        Act::Answer(match (request.method.as_str(), request.path()) {
            ("PUT", "/latest/api/token") => Response::new(200, "session"),
            _ if request.header("x-aws-ec2-metadata-token") != Some("session") => Response::new(401, ""),
            ("GET", "/latest/meta-data/iam/security-credentials/") => Response::new(200, "role"),
            ("GET", "/latest/meta-data/iam/security-credentials/role") => {
                let (token, lifetime) = *current.lock().expect("whole");
                document("MACHINE", token, &in_seconds(lifetime))
            }
            _ => Response::new(404, ""),
        })
    })
}

/// Goal: both families of variables give keys. Method: a bucket that accepts one key; Litestream's names, then both.
#[test]
fn keys_of_the_environment_are_used_and_amazons_come_first() {
    let litestream = [("LITESTREAM_ACCESS_KEY_ID", "OURS"), ("LITESTREAM_SECRET_ACCESS_KEY", "s")];
    put(&open(&guarded(&accepts("OURS", None)), &litestream), 1).expect("Litestream's names");
    let aws = [("AWS_ACCESS_KEY_ID", "AWS"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
    let both = [&litestream[..], &aws[..]].concat();
    put(&open(&guarded(&accepts("AWS", Some("t"))), &both), 1).expect("Amazon's names, with a session token");
}

/// Goal: a token that nobody can renew is named. Method: a bucket that accepts another one only.
#[test]
fn an_expired_token_of_the_environment_is_named() {
    let memory = guarded(&accepts("AWS", Some("new")));
    let store =
        open(&memory, &[("AWS_ACCESS_KEY_ID", "AWS"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "old")]);
    let ended = put(&store, 1);
    let Err(Error::Refused(text)) = &ended else { panic!("{ended:?}") };
    assert!(text.contains("ExpiredToken") && text.contains("expired"), "{text}");
}

/// Goal: a token that runs out in the middle of a long life is renewed without anybody noticing. Method: the
/// metadata service hands out a token about to expire, then another; the store accepts each in its time only.
#[test]
fn a_machines_token_that_expires_in_the_middle_is_renewed() {
    // object_store renews five minutes before the end, so this one lasts two seconds.
    let current = Arc::new(Mutex::new(("first", 302)));
    let accepted = accepts("MACHINE", Some("first"));
    let (service, memory) = (machine(Arc::clone(&current)), guarded(&accepted));
    let store = open(&memory, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.endpoint)]);
    put(&store, 1).expect("with the first token");
    let asked = service.seen().len();
    put(&store, 2).expect("with the first token");
    assert_eq!(service.seen().len(), asked, "a token is kept while it lasts");
    *current.lock().expect("whole") = ("second", 3600);
    *accepted.lock().expect("whole") = ("MACHINE".to_string(), Some("second".to_string()));
    std::thread::sleep(Duration::from_millis(2500));
    put(&store, 3).expect("with the second token");
    assert_eq!(store.requests().other as usize, service.seen().len(), "and what it cost is counted apart");
}

/// Goal: keys of a pod come from its agent. Method: an agent that asks for the token of the file.
#[test]
fn a_pods_credentials_come_from_its_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "pod-token").expect("written");
    let agent = StandIn::start(|request| {
        Act::Answer(match (request.path(), request.header("authorization")) {
            ("/v1/credentials", Some("pod-token")) => document("POD", "t", &in_seconds(3600)),
            _ => Response::new(403, ""),
        })
    });
    let memory = guarded(&accepts("POD", Some("t")));
    let uri = format!("{}/v1/credentials", agent.endpoint);
    let env = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().expect("UTF-8")),
    ];
    put(&open(&memory, &env), 1).expect("stored");
}

/// Goal: a web identity becomes keys. Method: a token service that wants the token and the role.
#[test]
fn a_web_identity_is_exchanged_for_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "web-token").expect("written");
    let sts = StandIn::start(|request| {
        let asked = format!("{} {}", request.target, String::from_utf8_lossy(&request.body));
        Act::Answer(
            if asked.contains("AssumeRoleWithWebIdentity")
                && asked.contains("web-token")
                && asked.contains("role%2Fapp")
            {
                let expires = in_seconds(3600);
                Response::new(
                    200,
                    format!(
                        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>WEB</AccessKeyId>\
                     <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>{expires}</Expiration></Credentials>\
                     </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
                    ),
                )
            } else {
                Response::error(403, "AccessDenied")
            },
        )
    });
    let memory = guarded(&accepts("WEB", Some("t")));
    let env = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().expect("UTF-8")),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/app"),
        ("AWS_ENDPOINT_URL_STS", sts.endpoint.as_str()),
    ];
    put(&open(&memory, &env), 1).expect("stored");
}

/// Goal: a task's credentials come from Amazon's fixed address, and proxies are honoured. Method: the test runs
/// itself again with a proxy set, which stands in for that address.
#[test]
fn a_tasks_credentials_come_from_its_fixed_address() {
    const CHILD: &str = "LITESTREAM_TEST_TASK_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let memory = guarded(&accepts("TASK", Some("t")));
        put(&open(&memory, &[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x")]), 1).expect("stored");
        return;
    }
    let address = StandIn::start(|request| {
        Act::Answer(match request.target.as_str() {
            "http://169.254.170.2/v2/credentials/x" => document("TASK", "t", &in_seconds(3600)),
            _ => Response::new(404, ""),
        })
    });
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["a_tasks_credentials_come_from_its_fixed_address", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("http_proxy", &address.endpoint)
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(address.count("GET"), 1);
}

/// Goal: no credentials anywhere is a sentence that says what to set, soon. Method: a machine without a role,
/// and one without a metadata service.
#[test]
fn no_credentials_at_all_say_what_to_set() {
    let nobody = StandIn::start(|_| Act::Answer(Response::new(404, "")));
    let silent = StandIn::start(|_| Act::Hang);
    for service in [&nobody, &silent] {
        let memory = guarded(&accepts("X", None));
        let store = open(&memory, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.endpoint)]);
        let began = std::time::Instant::now();
        let ended = store.list(Level::RAW);
        let Err(Error::Refused(text)) = &ended else { panic!("{ended:?}") };
        assert!(text.contains("no credentials") && text.contains("AWS_ACCESS_KEY_ID"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        assert!(memory.server.seen().is_empty(), "the store itself was not asked");
    }
}

/// Goal: an Azure URL without an account is refused with the ways to name one. Method: open, with an empty environment.
#[test]
fn azure_without_an_account_says_how_to_name_one() {
    let url = ReplicaUrl::parse("abs://container/app").expect("a URL");
    let Err(Error::Usage(text)) = Store::open(&url, &|_| None, &Io::new()).map(drop) else {
        panic!("no account was given")
    };
    assert!(text.contains("abs://ACCOUNT@container") && text.contains("AZURE_STORAGE_ACCOUNT"), "{text}");
}
