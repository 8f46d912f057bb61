//! Where the events of one request go: into its stream or its sink. Whatever happens to the engine, the caller hears of
//! an end: an outlet that is dropped before says that the engine has stopped.
use crate::error::Error;
use crate::mailbox::{Flow, Writer};
use crate::request::{Event, Sink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes of events that may wait for a slow reader.
pub(crate) const EVENT_BYTES: usize = 1 << 20;

enum Way {
    Stream(Writer<Event>),
    Sink(Sink),
}

/// The way to one caller.
pub(crate) struct Outlet {
    way: Way,
    ended: bool,
}

impl Outlet {
    /// To an iterator.
    pub fn stream(writer: Writer<Event>) -> Outlet {
        Outlet { way: Way::Stream(writer), ended: false }
    }

    /// To a closure.
    pub fn sink(sink: Sink) -> Outlet {
        Outlet { way: Way::Sink(sink), ended: false }
    }

    /// Whether it leads to a closure.
    pub fn is_sink(&self) -> bool {
        matches!(self.way, Way::Sink(_))
    }

    /// Tells the caller, never waiting.
    pub fn send(&mut self, event: Event) -> Flow {
        match &mut self.way {
            Way::Stream(writer) => {
                let bytes = weight(&event);
                writer.push(event, bytes)
            }
            // A sink that panics concerns its own request only.
            Way::Sink(sink) => match catch_unwind(AssertUnwindSafe(|| sink(event))) {
                Ok(true) => Flow::Open,
                Ok(false) | Err(_) => Flow::Gone,
            },
        }
    }

    /// The last word.
    pub fn fail(mut self, error: Error) {
        self.send(Event::Failed(error));
        self.ended = true;
    }

    /// All has been said, or nobody listens.
    pub fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.ended {
            self.send(Event::Failed(Error::Stopped));
        }
    }
}

/// Bytes that an event holds, about.
fn weight(event: &Event) -> usize {
    let of_token = |l: &crate::request::TokenLogprobs| size_of_val(l) + size_of_val(&l.top[..]);
    let beyond = match event {
        Event::Prompt(rows) => rows.iter().map(of_token).sum(),
        Event::Token { logprobs, .. } => logprobs.iter().map(of_token).sum(),
        Event::Done { .. } | Event::Failed(_) => 0,
    };
    size_of::<Event>() + beyond
}
