//! What a network is, and its one forward pass.
