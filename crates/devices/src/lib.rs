//! The one place that names the back ends and opens them.
#![forbid(unsafe_code)]
