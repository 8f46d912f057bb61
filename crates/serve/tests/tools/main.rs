//! Tool calls: every format, cut anywhere, well and badly written.
mod answers;
mod cuts;
mod enforced;
mod formats;
mod recorded;
mod templates;
