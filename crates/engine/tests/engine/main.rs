//! The engine through its handle, on the tiny golden models and the reference back end.
mod answers;
mod choices;
mod faults;
mod judging;
mod numbers;
mod requests;
mod scores;
mod setting;
mod wants;
