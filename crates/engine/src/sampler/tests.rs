//! Tests of choosing tokens.
