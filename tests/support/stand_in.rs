//! A small HTTP/1.1 server whose answers a test decides: the ground of the fault proxy and of the doubles.
//!
//! One thread for each connection, ended when the server is dropped. Knows framing, nothing of stores.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// A value of the query, percent-decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let (_, value) =
            query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(key, _)| *key == name)?;
        Some(decode(value))
    }
}

/// An answer as it goes.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_string(), value.into()));
        self
    }

    /// An error as S3 words it.
    pub fn error(status: u16, code: &str) -> Response {
        Response::new(
            status,
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said the test</Message></Error>"),
        )
    }
}

/// What the server does with a request.
pub enum Act {
    Answer(Response),
    /// The head of the answer and so many bytes of its body, then the connection ends.
    Cut(Response, usize),
    /// Nothing, for as long as the client waits.
    Hang,
    /// The head and so many bytes, then nothing.
    HangAfter(Response, usize),
    /// The body in pieces of so many bytes, with a pause before each.
    Drip(Response, usize, Duration),
    /// The connection ends without a word.
    Close,
}

/// The running server.
pub struct StandIn {
    /// Host and port.
    pub address: String,
    /// `http://` and the address.
    pub endpoint: String,
    stopped: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    pub fn start(act: impl Fn(&Request) -> Act + Send + Sync + 'static) -> StandIn {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        StandIn::on(listener, act)
    }

    fn on(listener: TcpListener, act: impl Fn(&Request) -> Act + Send + Sync + 'static) -> StandIn {
        let address = listener.local_addr().expect("an address").to_string();
        let (stopped, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (act, ends, log) = (Arc::new(act), Arc::clone(&stopped), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let (act, ends, log) = (Arc::clone(&act), Arc::clone(&ends), Arc::clone(&log));
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || serve(stream, &*act, &ends, &log));
            }
        });
        StandIn { endpoint: format!("http://{address}"), address, stopped, seen }
    }

    /// Requests so far, without their bodies' meaning.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("no test panicked in here").clone()
    }

    /// Requests so far by method.
    pub fn count(&self, method: &str) -> usize {
        self.seen().iter().filter(|request| request.method == method).count()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the listener; where that fails it is gone already.
        let _ = TcpStream::connect(&self.address);
    }
}

/// Serves one connection to its end.
fn serve(stream: TcpStream, act: &dyn Fn(&Request) -> Act, ends: &AtomicBool, log: &Mutex<Vec<Request>>) {
    let Ok(mut out) = stream.try_clone() else { return };
    let mut input = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut input, &mut out) {
        log.lock().expect("no test panicked in here").push(Request { body: Vec::new(), ..request.clone() });
        let is_head = request.method == "HEAD";
        let hang = || {
            while !ends.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        let sent = match act(&request) {
            Act::Answer(answer) => {
                let all = answer.body.len();
                write_response(&mut out, &answer, is_head, all)
            }
            Act::Cut(answer, bytes) => {
                // The client sees the end of the connection; whether it took the bytes does not matter here.
                let _ = write_response(&mut out, &answer, is_head, bytes);
                return;
            }
            Act::HangAfter(answer, bytes) => {
                let _ = write_response(&mut out, &answer, is_head, bytes);
                return hang();
            }
            Act::Drip(answer, piece, pause) => write_response(&mut out, &answer, is_head, 0).and_then(|()| {
                answer.body.chunks(piece).try_for_each(|part| {
                    std::thread::sleep(pause);
                    out.write_all(part)
                })
            }),
            Act::Hang => return hang(),
            Act::Close => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn read_request(input: &mut BufReader<TcpStream>, out: &mut TcpStream) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or("").to_string();
    let target = words.next().unwrap_or("").to_string();
    let headers = read_headers(input)?;
    let mut request = Request { method, target, headers, body: Vec::new() };
    if request.header("expect").is_some() {
        out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    request.body = read_body(input, &request.headers, false)?;
    Ok(Some(request))
}

fn read_headers(input: &mut impl BufRead) -> std::io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        headers.push((name.trim().to_string(), value.trim().to_string()));
    }
}

fn read_body(input: &mut impl BufRead, headers: &[(String, String)], to_end: bool) -> std::io::Result<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let mut line = String::new();
            input.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            let start = body.len();
            body.resize(start + size, 0);
            input.read_exact(&mut body[start..])?;
            input.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    match header("content-length").map(|value| value.parse::<usize>().map_err(std::io::Error::other)) {
        Some(length) => {
            body.resize(length?, 0);
            input.read_exact(&mut body)?;
        }
        None if to_end => {
            input.read_to_end(&mut body)?;
        }
        None => {}
    }
    Ok(body)
}

fn write_response(out: &mut TcpStream, answer: &Response, is_head: bool, bytes: usize) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} said by a test\r\n", answer.status);
    let own_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !own_length && answer.status != 204 {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    out.write_all(format!("{head}\r\n").as_bytes())?;
    if !is_head {
        out.write_all(&answer.body[..bytes.min(answer.body.len())])?;
    }
    out.flush()
}

/// Passes a request on to another server, unchanged.
pub fn forward(address: &str, request: &Request) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !["connection", "transfer-encoding", "content-length", "expect"]
            .contains(&name.to_ascii_lowercase().as_str())
        {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    head.push_str(&format!("Connection: close\r\nContent-Length: {}\r\n\r\n", request.body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(&request.body)?;
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP: {line:?}")))?;
    let mut headers = read_headers(&mut input)?;
    let is_head = request.method == "HEAD";
    let body = if is_head { Vec::new() } else { read_body(&mut input, &headers, true)? };
    headers.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name != "connection" && name != "transfer-encoding" && (is_head || name != "content-length")
    });
    Ok(Response { status, headers, body })
}

/// Undoes percent-encoding.
pub fn decode(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match hex.and_then(|pair| u8::from_str_radix(pair, 16).ok()).filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
