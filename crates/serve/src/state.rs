//! What all handlers share: options, models, places, and whether the server loads, works or drains.
use crate::clock::Ids;
use crate::counts::Counts;
use crate::desk::Desk;
use crate::error::{ApiError, Result};
use crate::lines::Lines;
use crate::model::Model;
use crate::options::Options;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Questions at once that run nothing: more bodies would only fill memory.
const SEATS: usize = 64;

/// A server's own state.
pub struct State {
    /// Decided settings.
    pub options: Options,
    /// Numbers for metrics.
    pub counts: Arc<Counts>,
    /// Where slow work is done.
    pub desk: Desk,
    /// Labels of answers and requests.
    pub ids: Ids,
    /// Where requests are logged, if they are.
    pub log: Option<Lines>,
    models: OnceLock<Vec<Arc<Model>>>,
    phase: AtomicU8,
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    ending: watch::Sender<bool>,
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Models are not there yet.
    Loading,
    /// All is well.
    Ready,
    /// No new requests.
    Draining,
}

/// One of the places that requests run in; given back when it is dropped.
pub struct Place {
    counts: Arc<Counts>,
    _permit: OwnedSemaphorePermit,
}

/// The same for a question that runs nothing.
pub struct Seat {
    _permit: OwnedSemaphorePermit,
}

impl State {
    /// Nothing is served yet.
    pub fn new(options: Options) -> State {
        let places = Arc::new(Semaphore::new(options.max_requests));
        State {
            log: crate::journal::open(options.log),
            options,
            counts: Arc::default(),
            desk: Desk::default(),
            ids: Ids::default(),
            models: OnceLock::new(),
            phase: AtomicU8::new(Phase::Loading as u8),
            places,
            seats: Arc::new(Semaphore::new(SEATS)),
            ending: watch::Sender::new(false),
        }
    }

    /// Takes models into service. The first is the one that is meant where no name is given.
    pub fn install(&self, models: Vec<Arc<Model>>) {
        if self.models.set(models).is_ok() {
            let (loading, ready) = (Phase::Loading as u8, Phase::Ready as u8);
            // A server that was told to stop while it was loading stays so.
            let _ = self.phase.compare_exchange(loading, ready, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Takes no more requests.
    pub fn drain(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::SeqCst);
    }

    /// What still runs ends now, with an error. The engine may be in a long step: nobody waits for it.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Tells when it has come to that.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// What the server is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Loading,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// A thread that speaks HTTP has nothing left to do: engines need not give way to it any more.
    pub fn thank(&self) {
        self.models().iter().for_each(|model| model.served.handle.courtesy().thank());
    }

    /// The models in service; none while loading.
    pub fn models(&self) -> &[Arc<Model>] {
        self.models.get().map_or(&[], Vec::as_slice)
    }

    /// The model of a name; the first if none is given.
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Model>> {
        let mut models = self.models().iter();
        let found = match name {
            None => models.next(),
            Some(name) => models.find(|model| model.name() == name),
        };
        let missing = || match self.phase() {
            Phase::Loading => ApiError::unavailable("the model is being loaded"),
            _ => ApiError::no_such_model(name.unwrap_or_default()),
        };
        found.cloned().ok_or_else(missing)
    }

    /// Takes a place on arrival, before anything is read or computed.
    pub fn enter(&self) -> Result<Place> {
        match self.phase() {
            Phase::Loading => return Err(ApiError::unavailable("the model is being loaded")),
            Phase::Draining => return Err(ApiError::unavailable("the server is shutting down")),
            Phase::Ready => {}
        }
        match self.places.clone().try_acquire_owned() {
            Ok(permit) => {
                self.counts.entered();
                Ok(Place { counts: self.counts.clone(), _permit: permit })
            }
            Err(_) => Err(self.turn_away()),
        }
    }

    /// Takes a seat for a question, also before anything is read. Loading and draining matter to what runs alone.
    pub fn sit(&self) -> Result<Seat> {
        let permit = self.seats.clone().try_acquire_owned().map_err(|_| self.turn_away())?;
        Ok(Seat { _permit: permit })
    }

    fn turn_away(&self) -> ApiError {
        self.counts.turned_away();
        ApiError::busy()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.left();
    }
}
