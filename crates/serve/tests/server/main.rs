//! A real server on a real port, asked over real HTTP. Each line of the API that the server promises has its check here.
mod abort;
mod access;
mod chat;
mod client;
mod completions;
mod drain;
mod malformed;
mod operation;
mod parts;
mod runaway;
mod scripted;
mod setting;
mod tokens;
mod turns;
