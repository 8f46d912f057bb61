//! Flags that name a server and what it is asked for, and the way there.
use super::connection::Connection;
use anyhow::{Result, anyhow};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Which server.
#[derive(Args)]
pub struct ServerFlags {
    /// Address of the server, with or without /v1
    #[arg(default_value = "http://127.0.0.1:23333")]
    url: String,
    /// Model to ask for (default: the first that the server lists)
    #[arg(long)]
    pub model: Option<String>,
    /// Key that the server wants (default: PLANISH_API_KEY, then OPENAI_API_KEY from the environment)
    #[arg(long)]
    api_key: Option<String>,
    /// Authorities (PEM) that may sign the server's certificate, in place of the public ones
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

impl ServerFlags {
    /// A connection that gives up after so long a silence.
    pub fn connect(&self, timeout: Duration) -> Result<Connection> {
        let from = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let key = self.api_key.clone().or_else(|| from("PLANISH_API_KEY")).or_else(|| from("OPENAI_API_KEY"));
        Connection::new(&self.url, key, self.ca_cert.as_deref(), timeout)
    }
}

/// The first model that a server lists.
pub fn first_model(connection: &Connection) -> Result<String> {
    let list = connection.get("models")?;
    let name = list["data"][0]["id"].as_str().map(str::to_owned);
    name.ok_or_else(|| anyhow!("{}/models: expected a list with a model, found {list}", connection.base()))
}
