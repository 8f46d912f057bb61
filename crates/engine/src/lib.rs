//! Runs a model: requests, scheduler, pages, sampler, and the handle everything goes through.
#![forbid(unsafe_code)]
