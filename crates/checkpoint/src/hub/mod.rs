//! A small client of the Hugging Face hub: lists a model's files, downloads what an engine needs into the standard
//! cache (shared with other tools), resumes, verifies, and works offline from what is there.
//! Layout: `models--<org>--<name>/{blobs/<etag>, snapshots/<commit>/<file> -> blob, refs/<revision>}`.

mod cache;
mod client;
mod download;
mod error;
mod http;
mod names;
mod options;

pub use client::HubClient;
pub use error::HubError;
pub use options::HubOptions;
