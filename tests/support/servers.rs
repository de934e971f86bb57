//! Real object stores for tests: SeaweedFS (S3) and Azurite (Azure), started on loopback and stopped again.
//!
//! A server lives below a small shell that waits on a pipe from the test: when the test's process ends, however
//! it ends, the pipe closes, the server is stopped by its pid and its folder removed. So a server may sit in a
//! static, shared by all tests of a file. Nothing here knows what is stored.
#![allow(dead_code)]

use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to come up on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Access key and secret of the S3 server.
pub const S3_KEY: (&str, &str) = ("litestream-test-key", "litestream-test-secret");

/// Account and key of Azurite, which are published and the same everywhere.
pub const AZURITE_ACCOUNT: &str = "devstoreaccount1";
pub const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server.
pub struct Server {
    /// `http://127.0.0.1:port`.
    pub endpoint: String,
    /// Host and port.
    pub address: String,
    guard: Option<ChildStdin>,
    shell: Child,
}

impl Server {
    /// Runs `command` below the shell; `folder` and `litter` are removed at the end.
    fn start(mut command: Vec<String>, folder: &Path, port: u16, litter: &[String]) -> Server {
        let script = r#"
            dir="$1"; shift
            "$@" >"$dir/log" 2>&1 </dev/null &
            pid=$!
            (while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done; [ -d "$dir" ] && : >"$dir/gone") &
            watcher=$!
            read -r line
            kill "$watcher" 2>/dev/null
            wait "$watcher" 2>/dev/null
            kill "$pid" 2>/dev/null
            for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.1
            done
            kill -9 "$pid" 2>/dev/null
            rm -rf "$dir" $litter
        "#;
        let mut args = vec!["-c".to_string(), script.to_string(), "sh".to_string(), folder.display().to_string()];
        args.append(&mut command);
        let mut shell = Command::new("sh")
            .args(args)
            .current_dir(folder)
            .env_remove("AWS_CA_BUNDLE")
            .env("litter", litter.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell starts");
        let guard = shell.stdin.take();
        let address = format!("127.0.0.1:{port}");
        Server { endpoint: format!("http://{address}"), address, guard, shell }
    }

    fn wait_until(&mut self, folder: &Path, what: &str, ready: impl Fn() -> bool) {
        let began = Instant::now();
        while !ready() {
            let is_gone = folder.join("gone").exists();
            if is_gone || began.elapsed() > START {
                let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                panic!(
                    "{what} did not come up within {} s; its log ends (newest first):\n{}",
                    START.as_secs(),
                    tail.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.take());
        // It stops its server within two seconds; its exit code says nothing.
        let _ = self.shell.wait();
    }
}

/// SeaweedFS with S3 on a free port and the keys [`S3_KEY`]. Buckets are made by [`Seaweed::bucket`].
pub struct Seaweed {
    pub server: Server,
    filer: String,
}

impl Seaweed {
    pub fn start() -> Seaweed {
        Seaweed::start_with(&[])
    }

    fn start_with(options: &[String]) -> Seaweed {
        let weed = binary("LITESTREAM_TEST_WEED", "weed");
        let folder = folder();
        let config = folder.join("s3.json");
        let (key, secret) = S3_KEY;
        let identities = format!(
            r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"{key}","secretKey":"{secret}"}}],"actions":["Admin","Read","List","Tagging","Write"]}}]}}"#
        );
        std::fs::write(&config, identities).expect("the temporary folder can be written");
        let ports = free_ports(8);
        let mut command = vec![weed, "server".to_string()];
        let named = ["master", "volume", "filer", "s3"];
        for (name, pair) in named.iter().zip(ports.chunks(2)) {
            command.push(format!("-{name}.port={}", pair[0]));
            command.push(format!("-{name}.port.grpc={}", pair[1]));
        }
        command.extend([
            format!("-dir={}", folder.display()),
            "-ip=127.0.0.1".to_string(),
            "-ip.bind=127.0.0.1".to_string(),
            "-s3".to_string(),
            format!("-s3.config={}", config.display()),
            "-volume.max=20".to_string(),
            "-master.volumeSizeLimitMB=256".to_string(),
            "-master.telemetry=false".to_string(),
            // Services of fixed ports that no test asks; two servers would collide there.
            "-s3.port.iceberg=0".to_string(),
            "-s3.port.lance=0".to_string(),
        ]);
        command.extend_from_slice(options);
        // It leaves sockets behind in a folder of its own choice.
        let temporary = std::env::temp_dir();
        let socket = |name: &&str, port: &u16| format!("{}/seaweedfs-{name}-{port}.sock", temporary.display());
        let sockets: Vec<String> = ["filer", "s3", "master-grpc", "volume-grpc", "filer-grpc", "s3-grpc"]
            .iter()
            .flat_map(|name| ports.iter().map(move |port| (name, port)))
            .map(|(name, port)| socket(name, port))
            .collect();
        let (filer, s3) = (ports[4], ports[6]);
        let mut server = Server::start(command, &folder, s3, &sockets);
        let filer = format!("127.0.0.1:{filer}");
        let up = |address: &str| http(address, "GET", "/", &[], b"").is_ok();
        server.wait_until(&folder, "SeaweedFS", || up(&filer) && up(&format!("127.0.0.1:{s3}")));
        let seaweed = Seaweed { server, filer };
        // The first write waits for the volume server; from here on the store is up.
        seaweed.bucket("warm-up");
        seaweed
    }

    /// SeaweedFS that speaks S3 by TLS as well, with a certificate and its key.
    pub fn start_with_tls(certificate: &Path, key: &Path) -> (Seaweed, String) {
        let port = free_ports(1)[0];
        let options = [
            format!("-s3.port.https={port}"),
            format!("-s3.cert.file={}", certificate.display()),
            format!("-s3.key.file={}", key.display()),
        ];
        (Seaweed::start_with(&options), format!("https://127.0.0.1:{port}"))
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str) {
        let began = Instant::now();
        loop {
            match http(&self.filer, "POST", &format!("/buckets/{name}/"), &[], b"") {
                // The first write makes volumes, which takes seconds: not in the test's own time.
                Ok((status, _)) if status < 300 => {
                    let first = format!("/buckets/{name}/.first");
                    if http(&self.filer, "PUT", &first, &[], b"first").is_ok_and(|(status, _)| status < 300) {
                        http(&self.filer, "DELETE", &first, &[], b"").expect("deleted");
                        return;
                    }
                }
                answer => assert!(began.elapsed() < START, "bucket {name} cannot be made: {answer:?}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Credentials and what else a store reads from its environment.
    pub fn env(&self) -> impl Fn(&str) -> Option<String> + Clone + use<> {
        |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(S3_KEY.0.to_string()),
            "AWS_SECRET_ACCESS_KEY" => Some(S3_KEY.1.to_string()),
            _ => None,
        }
    }
}

/// Azurite with its published account.
pub struct Azurite {
    pub server: Server,
}

impl Azurite {
    pub fn start() -> Azurite {
        let azurite = binary("LITESTREAM_TEST_AZURITE", "azurite-blob");
        let folder = folder();
        let port = free_ports(1)[0];
        let command = [
            azurite,
            "--inMemoryPersistence".to_string(),
            "--disableTelemetry".to_string(),
            "--skipApiVersionCheck".to_string(),
            "--blobHost".to_string(),
            "127.0.0.1".to_string(),
            "--blobPort".to_string(),
            port.to_string(),
        ];
        let mut server = Server::start(command.to_vec(), &folder, port, &[]);
        let address = server.address.clone();
        server.wait_until(&folder, "Azurite", || http(&address, "GET", "/", &[], b"").is_ok());
        Azurite { server }
    }

    /// Makes a container.
    pub fn container(&self, name: &str) {
        let path = format!("/{AZURITE_ACCOUNT}/{name}?restype=container");
        let mut request: HttpRequest = http::Request::put(format!("{}{path}", self.server.endpoint))
            .body(HttpRequestBody::empty())
            .expect("a request");
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURITE_KEY).expect("base64"));
        AzureAuthorizer::new(&credential, AZURITE_ACCOUNT).try_authorize(&mut request).expect("signed");
        let headers: Vec<(String, String)> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_string()))
            .collect();
        let answer = http(&self.server.address, "PUT", &path, &headers, b"").expect("Azurite answers");
        assert_eq!(answer.0, 201, "container {name}: {}", String::from_utf8_lossy(&answer.1));
    }

    pub fn env(&self) -> impl Fn(&str) -> Option<String> + Clone + use<> {
        |name: &str| (name == "AZURE_STORAGE_KEY").then(|| AZURITE_KEY.to_string())
    }
}

/// A program named by a variable or found on PATH; without it the test fails.
fn binary(variable: &str, name: &str) -> String {
    if let Some(path) = std::env::var_os(variable) {
        assert!(Path::new(&path).exists(), "{variable} names {path:?}, which does not exist");
        return path.into_string().expect("a path in UTF-8");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    match found {
        Some(file) => file.display().to_string(),
        None => panic!("`{name}` is neither on PATH nor named by {variable}: `make test` installs it"),
    }
}

fn folder() -> PathBuf {
    tempfile::Builder::new().prefix("litestream-server-").tempdir().expect("a temporary folder").keep()
}

/// Ports that nobody listens on now.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("an address").port()).collect()
}

/// One request over one connection: status and body.
pub fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(text.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP: {line:?}")))?;
    while answer.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut body = Vec::new();
    answer.read_to_end(&mut body)?;
    Ok((status, body))
}
