//! One text's way through a grammar.
use super::worker::{Place, Step};
use super::{Grammar, Mask};
use crate::error::Result;
use std::sync::Arc;

/// Follows a grammar token by token. Dropping it frees its state.
pub struct Guide {
    place: Place,
}

impl Guide {
    /// At the start of a text. Returns at once; the first mask is computed meanwhile.
    pub fn start(grammar: Grammar) -> Guide {
        let Grammar { compiled, vocabulary } = grammar;
        Guide { place: vocabulary.worker().enter(compiled, vocabulary.clone()) }
    }

    /// Tells which token was chosen. Returns at once; the next mask is computed meanwhile. A token that the mask did
    /// not allow makes the next [`Guide::mask`] an error.
    pub fn advance(&mut self, token: u32) {
        self.place.advance(token);
    }

    /// The tokens that may come next; waits until it is known. After the grammar's end only the end ids are allowed.
    ///
    /// # Errors
    /// [`crate::Error::Grammar`] if the grammar's limits were exceeded, if a token was not allowed, or if llguidance
    /// failed; the request should end, and every later call gives the same error.
    pub fn mask(&self) -> Result<Arc<Mask>> {
        self.step().map(|step| step.mask)
    }

    /// The mask, if it is known already. None also for an error, which [`Guide::mask`] tells.
    pub fn mask_if_known(&self) -> Option<Arc<Mask>> {
        self.place.known().map(|step| step.mask)
    }

    /// Whether the grammar has ended, so that nothing but an end id may follow: the text is over. Waits as
    /// [`Guide::mask`] does.
    ///
    /// # Errors
    /// As [`Guide::mask`].
    pub fn is_complete(&self) -> Result<bool> {
        self.step().map(|step| step.complete)
    }

    fn step(&self) -> Result<Step> {
        self.place.wait()
    }
}

impl std::fmt::Debug for Guide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guide").finish_non_exhaustive()
    }
}
