//! `planish serve`: one or several models behind an OpenAI-compatible server.
mod file;
mod load;

use super::flags::EngineFlags;
use super::print_json;
use crate::Global;
use anyhow::{Context, Result, bail};
use clap::{ArgAction, Args};
use planish::Model;
use planish::notice::say;
use planish_serve::tools::FORMATS;
use planish_serve::{Address, Keys, LogStyle, Options, Service, Tls};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use file::expand;

/// Where further API keys may be, separated by commas or blanks.
const KEYS: &str = "PLANISH_API_KEYS";

/// Flags of the command.
#[derive(Args)]
#[command(args_override_self = true)]
pub struct Flags {
    /// Directories, .gguf files or hub ids; several are served side by side
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<String>,
    /// Name of a model for callers (repeatable, in the order of the models; default: the folder's name or the hub id)
    #[arg(long = "served-model-name", visible_alias = "model-name", value_name = "NAME")]
    names: Vec<String>,
    /// A YAML or JSON file of flags, such as `server-port: 8000`; flags on the command line win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceFlags,
    #[command(flatten)]
    access: AccessFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    engine: EngineFlags,
    /// Refuse request fields that nobody knows
    #[arg(long)]
    strict_fields: bool,
    /// Sampling where a request says nothing: as the model's generation_config.json suggests, or OpenAI's defaults
    #[arg(long, default_value = "auto", value_parser = ["auto", "none"])]
    generation_config: String,
    /// How models write tool calls (default: what each model's template shows)
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS.map(|format| format.name))]
    tool_call_parser: Option<String>,
    /// A line on stderr for each request; never a word of a prompt
    #[arg(long, default_value = "text", value_parser = ["off", "text", "json"])]
    log_requests: String,
    /// Accepted for LMDeploy's sake: there is one engine
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

/// Where to listen.
#[derive(Args)]
struct PlaceFlags {
    /// Address to listen on
    #[arg(long, visible_alias = "host", default_value = "127.0.0.1")]
    server_name: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, visible_alias = "port", default_value_t = 23333)]
    server_port: u16,
    /// Listen on a Unix socket instead
    #[arg(long, value_name = "PATH", conflicts_with = "socket_activation")]
    unix_socket: Option<PathBuf>,
    /// Take the socket that systemd has opened
    #[arg(long)]
    socket_activation: bool,
    /// Certificate chain (PEM); with --tls-key the server speaks HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// Who may ask.
#[derive(Args)]
struct AccessFlags {
    /// A key that callers must give (repeatable); also from the environment: PLANISH_API_KEYS
    #[arg(long = "api-key", visible_alias = "api-keys", value_name = "KEY", action = ArgAction::Append)]
    api_keys: Vec<String>,
    /// A file of keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let everyone in who can reach the address
    #[arg(long)]
    insecure_no_auth: bool,
    /// An origin that browsers may ask from (repeatable; * for any)
    #[arg(long, visible_alias = "allow-origins", value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// A host name that is answered although there are no keys (repeatable)
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Answer /metrics without a key
    #[arg(long)]
    public_metrics: bool,
}

/// How much is taken.
#[derive(Args)]
struct LimitFlags {
    /// Requests that run or wait; more are answered with 429
    #[arg(long, default_value_t = 256, value_parser = parse_count)]
    max_concurrent_requests: usize,
    /// Connections at once
    #[arg(long, default_value_t = 4096, value_parser = parse_count)]
    max_connections: usize,
    /// Bytes of a request's body
    #[arg(long, default_value_t = 16 << 20, value_parser = parse_count)]
    max_body: usize,
    /// Seconds for a request to arrive, and between requests
    #[arg(long, default_value_t = 30.0, value_parser = parse_seconds)]
    read_timeout: f64,
    /// Seconds for an answer
    #[arg(long, default_value_t = 600.0, value_parser = parse_seconds)]
    request_timeout: f64,
    /// Seconds that a caller may leave its answer unread
    #[arg(long, default_value_t = 30.0, value_parser = parse_seconds)]
    stall_timeout: f64,
    /// Seconds of silence after which a stream gets a comment
    #[arg(long, default_value_t = 15.0, value_parser = parse_seconds)]
    keep_alive: f64,
    /// Seconds for requests in flight after SIGTERM
    #[arg(long, default_value_t = 30.0, value_parser = parse_seconds)]
    drain_timeout: f64,
}

/// Runs the command until the server is told to stop.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let start = Instant::now();
    if flags.backend.is_some() && global.talks() {
        say(format_args!("note: --backend is accepted and not used: there is one engine"));
    }
    let titles = titles(&flags.models, &flags.names)?;
    // What is wrong with a model's files is said before the port opens.
    let models = flags.models.iter().map(|name| Model::open(name, global.talks())).collect::<Result<Vec<_>>>()?;
    let tls = flags.place.tls();
    let open_to_all = flags.access.insecure_no_auth;
    let service = Service::start(flags.options(global)?, &flags.place.address(), tls.as_ref(), open_to_all)?;
    service.stop_on_signals();
    let Some(loaded) = load::beside(global, flags, models, &titles, || service.has_ended())? else {
        // Told to stop while it was loading: nobody needs the models any more.
        return Ok(service.wait()?);
    };
    service.install(loaded);
    let url = service.url();
    if global.json {
        print_json(&json!({"url": url, "models": titles, "seconds": start.elapsed().as_secs_f64()}))?;
    }
    if global.talks() {
        let (seconds, what) = (start.elapsed().as_secs_f64(), titles.join(", "));
        say(format_args!("{what}: {url} (OpenAI API under /v1, Swagger UI at /), ready in {seconds:.2} s"));
    }
    Ok(service.wait()?)
}

/// The names that callers use, one for each model.
fn titles(models: &[String], given: &[String]) -> Result<Vec<String>> {
    if given.len() > models.len() {
        bail!("--served-model-name: expected at most {} names, found {}", models.len(), given.len());
    }
    let own = models.iter().map(|model| own_name(model));
    let titles: Vec<String> = own.enumerate().map(|(i, own)| given.get(i).cloned().unwrap_or(own)).collect();
    for (i, title) in titles.iter().enumerate() {
        if title.is_empty() || titles[..i].contains(title) {
            bail!("--served-model-name: expected a name of its own for each model, found {title:?} for two");
        }
    }
    Ok(titles)
}

/// A path's last part, which tells nothing of the machine, or the hub id.
fn own_name(model: &str) -> String {
    let path = Path::new(model);
    if !path.exists() {
        return model.to_owned();
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let part = if path.is_dir() { path.file_name() } else { path.file_stem() };
    part.map_or(model.to_owned(), |part| part.to_string_lossy().into_owned())
}

impl Flags {
    fn options(&self, global: &Global) -> Result<Options> {
        let limits = &self.limits;
        let seconds = Duration::from_secs_f64;
        let log = match self.log_requests.as_str() {
            _ if !global.talks() => LogStyle::Off,
            "json" => LogStyle::Json,
            "text" => LogStyle::Text,
            _ => LogStyle::Off,
        };
        Ok(Options {
            keys: self.access.keys()?,
            origins: self.access.allow_origin.clone(),
            hosts: Some(self.access.allowed_host.clone()),
            max_requests: limits.max_concurrent_requests,
            max_connections: limits.max_connections,
            max_body: limits.max_body,
            read_time: seconds(limits.read_timeout),
            request_time: seconds(limits.request_timeout),
            stall_time: seconds(limits.stall_timeout),
            keep_alive: seconds(limits.keep_alive),
            drain_time: seconds(limits.drain_timeout),
            strict_fields: self.strict_fields,
            public_metrics: self.access.public_metrics,
            model_defaults: self.generation_config == "auto",
            log,
            ..Options::default()
        })
    }
}

impl PlaceFlags {
    fn address(&self) -> Address {
        match &self.unix_socket {
            Some(path) => Address::Unix(path.clone()),
            None if self.socket_activation => Address::Activated,
            None => Address::Tcp(self.server_name.clone(), self.server_port),
        }
    }

    fn tls(&self) -> Option<Tls> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(Tls { cert, key })
    }
}

impl AccessFlags {
    fn keys(&self) -> Result<Keys> {
        let mut keys = self.api_keys.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path).with_context(|| format!("--api-key-file {}", path.display()))?;
            let before = keys.len();
            keys.extend(text.lines().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned));
            if keys.len() == before {
                bail!("--api-key-file {}: expected a key on each line, found none", path.display());
            }
        }
        let given = std::env::var(KEYS).unwrap_or_default();
        keys.extend(given.split([',', ' ', '\n']).filter(|key| !key.is_empty()).map(str::to_owned));
        Ok(Keys::new(keys))
    }
}

fn parse_count(text: &str) -> Result<usize, String> {
    let fits = text.parse().ok().filter(|n| (1..=1 << 30).contains(n));
    fits.ok_or_else(|| "expected a whole number from 1 up".into())
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let fits = text.parse().ok().filter(|seconds| (0.0..=1e6).contains(seconds));
    fits.ok_or_else(|| "expected seconds, a number from 0 to 1000000".into())
}

/// What a flag's value may be in a file.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
