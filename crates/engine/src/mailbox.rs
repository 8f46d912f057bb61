//! A queue from the engine's thread to one caller. Writing never waits: it says when the reader falls behind, and the
//! reader says when there is room again. Dropping the reader cancels the request.
use crate::request::Command;
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What writing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// There is room for more.
    Open,
    /// The reader has fallen behind: a [`Command::Room`] will follow once it has caught up.
    Full,
    /// Nobody reads any more.
    Gone,
}

#[derive(Debug)]
struct State<T> {
    /// Each with its weight.
    items: VecDeque<(T, usize)>,
    weight: usize,
    /// The reader sleeps.
    reader_waits: bool,
    /// The engine has stopped writing until there is room.
    writer_waits: bool,
    /// Nothing more will be written.
    closed: bool,
    /// Nobody reads.
    gone: bool,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    news: Condvar,
    /// Weight at which the writer is asked to wait.
    limit: usize,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Writer<T>(Arc<Shared<T>>);

/// The caller's end: iterate over it. It ends when the request has ended.
#[derive(Debug)]
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    _cancel: Cancel,
}

/// Cancels a request when dropped; a request that has ended does not mind.
#[derive(Debug)]
#[must_use = "dropping it cancels the request"]
pub struct Cancel {
    pub(crate) commands: Sender<Command>,
    pub(crate) id: u64,
}

impl Cancel {
    /// Ends the request as one that is complete: a stop string was found in its text, which the engine does not know.
    pub fn complete(self) {
        // The word that follows when this is dropped finds no request any more.
        let _ = self.commands.send(Command::Complete(self.id));
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        // An engine that has stopped has no requests left.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

/// A queue for items up to a total weight of `limit` (and at least one of any weight).
pub(crate) fn mailbox<T>(limit: usize, cancel: Cancel) -> (Writer<T>, Reader<T>) {
    let state = State {
        items: VecDeque::new(),
        weight: 0,
        reader_waits: false,
        writer_waits: false,
        closed: false,
        gone: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new(), limit });
    (Writer(shared.clone()), Reader { shared, _cancel: cancel })
}

impl<T> Writer<T> {
    /// Adds an item, also beyond the limit: the owner stops when it is told that the box is full.
    pub fn push(&self, item: T, weight: usize) -> Flow {
        let mut state = self.0.lock();
        if state.gone {
            return Flow::Gone;
        }
        state.items.push_back((item, weight));
        state.weight += weight;
        // Once full, full until the reader says otherwise: it says so once.
        state.writer_waits |= state.weight >= self.0.limit;
        let flow = if state.writer_waits { Flow::Full } else { Flow::Open };
        let wake = std::mem::take(&mut state.reader_waits);
        drop(state);
        if wake {
            self.0.news.notify_one();
        }
        flow
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.news.notify_one();
    }
}

impl<T> Iterator for Reader<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if let Some((item, weight)) = state.items.pop_front() {
                state.weight -= weight;
                let caught_up = state.writer_waits && state.weight <= self.shared.limit / 2;
                if caught_up {
                    state.writer_waits = false;
                    let _ = self._cancel.commands.send(Command::Room(self._cancel.id));
                }
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.reader_waits = true;
            state = self.shared.news.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.gone = true;
        state.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn tells_both_ends() {
        let (commands, told) = channel();
        let (writer, mut reader) = mailbox(4, Cancel { commands, id: 9 });
        assert_eq!([2, 1, 1, 1].map(|w| writer.push(w, w)), [Flow::Open, Flow::Open, Flow::Full, Flow::Full]);
        assert_eq!((reader.next(), reader.next()), (Some(2), Some(1)));
        assert!(matches!(told.try_recv(), Ok(Command::Room(9))));
        assert_eq!(reader.next(), Some(1));
        assert!(told.try_recv().is_err(), "room is told once");
        drop(reader);
        assert!(matches!(told.try_recv(), Ok(Command::Cancel(9))));
        assert_eq!(writer.push(1, 1), Flow::Gone);
    }

    #[test]
    fn ends_when_the_writer_is_dropped_and_read_out() {
        let (commands, _told) = channel();
        let (writer, mut reader) = mailbox(1, Cancel { commands, id: 0 });
        let thread = std::thread::spawn(move || {
            writer.push(7, 100);
        });
        assert_eq!((reader.next(), reader.next()), (Some(7), None));
        thread.join().unwrap();
    }
}
