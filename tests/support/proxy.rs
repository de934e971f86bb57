//! A proxy between a store and its server that does what networks and servers do on bad days.
//!
//! It passes requests on unchanged, signatures and all, until a fault is set; then the requests that the fault
//! is about meet it, as often as it says. Every fault can be ended, as bad days do.
#![allow(dead_code)]

use super::stand_in::{Act, Request, Response, StandIn, forward};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The connection is closed without an answer.
    Close,
    /// No answer, ever.
    Hang,
    /// An answer that begins and then stops, after so many bytes of its body.
    HangAfter(usize),
    /// A status with a code of S3's, without asking the server.
    Status(u16, &'static str),
    /// The body in pieces of so many bytes, with a pause of so many milliseconds before each.
    Drip(usize, u64),
    /// The connection ends after so many bytes of the answer's body.
    CutBody(usize),
    /// The server does as asked, its answer is lost, and the client hears of a status.
    LoseAnswer(u16),
    /// The server does as asked, its answer is lost, and the connection ends.
    LoseConnection,
}

struct Plan {
    fault: Fault,
    /// Only requests of this method; all where it is empty.
    method: &'static str,
    /// Only requests whose target contains this.
    about: &'static str,
    times: usize,
}

/// The proxy.
pub struct Proxy {
    pub server: StandIn,
    plan: Arc<Mutex<Option<Plan>>>,
}

impl Proxy {
    /// Before the server at `upstream` (host and port).
    pub fn start(upstream: &str) -> Proxy {
        let plan: Arc<Mutex<Option<Plan>>> = Arc::default();
        let (upstream, planned) = (upstream.to_string(), Arc::clone(&plan));
        let server = StandIn::start(move |request| {
            let pass = || forward(&upstream, request);
            match due(&planned, request) {
                None => pass().map_or(Act::Close, Act::Answer),
                Some(Fault::Close) => Act::Close,
                Some(Fault::Hang) => Act::Hang,
                Some(Fault::Status(status, code)) => Act::Answer(Response::error(status, code)),
                Some(Fault::HangAfter(bytes)) => pass().map_or(Act::Close, |answer| Act::HangAfter(answer, bytes)),
                Some(Fault::Drip(piece, pause)) => {
                    pass().map_or(Act::Close, |answer| Act::Drip(answer, piece, Duration::from_millis(pause)))
                }
                Some(Fault::CutBody(bytes)) => pass().map_or(Act::Close, |answer| Act::Cut(answer, bytes)),
                Some(Fault::LoseAnswer(status)) => {
                    pass().map_or(Act::Close, |_| Act::Answer(Response::error(status, "InternalError")))
                }
                Some(Fault::LoseConnection) => {
                    // Done at the server, whatever it said.
                    let _ = pass();
                    Act::Close
                }
            }
        });
        Proxy { server, plan }
    }

    /// Every request from now on.
    pub fn set(&self, fault: Fault) {
        self.set_for(fault, "", "", usize::MAX);
    }

    /// The next `times` requests of a method (any where empty) whose target contains `about`.
    pub fn set_for(&self, fault: Fault, method: &'static str, about: &'static str, times: usize) {
        *self.plan.lock().expect("no test panicked in here") = Some(Plan { fault, method, about, times });
    }

    /// The bad day ends.
    pub fn heal(&self) {
        *self.plan.lock().expect("no test panicked in here") = None;
    }
}

fn due(plan: &Mutex<Option<Plan>>, request: &Request) -> Option<Fault> {
    let mut plan = plan.lock().expect("no test panicked in here");
    let planned = plan.as_mut()?;
    let is_about =
        request.target.contains(planned.about) && (planned.method.is_empty() || planned.method == request.method);
    if !is_about || planned.times == 0 {
        return None;
    }
    planned.times -= 1;
    Some(planned.fault.clone())
}
