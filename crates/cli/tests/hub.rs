//! A model of the hub by its name: fetched, run, and told of as loudly as asked.
mod program;
mod server;

use program::{scratch, tiny};
use serde_json::json;
use server::{Asked, Server, Step, reply, send};
use std::path::Path;
use std::process::{Command, Output};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [&str; 2] = ["config.json", "model.safetensors"];

/// The tiny model under a name.
fn hub(asked: &Asked) -> Vec<Step> {
    let path = asked.line.split(' ').nth(1).unwrap_or_default();
    if path.starts_with("/api/models/org/tiny/revision/main") {
        let siblings: Vec<_> = FILES.iter().map(|name| json!({"rfilename": name})).collect();
        return reply("200 OK", "application/json", "", &json!({"sha": COMMIT, "siblings": siblings}).to_string());
    }
    let name = path.strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/")).unwrap_or_default();
    if !FILES.contains(&name) {
        return reply("404 Not Found", "text/plain", "", "no such file");
    }
    let bytes = std::fs::read(tiny().join(name)).unwrap();
    let length = bytes.len();
    let head =
        format!("HTTP/1.1 200 OK\r\netag: \"{length}\"\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    match asked.line.starts_with("HEAD ") {
        true => vec![send(head)],
        false => vec![send(head), send(bytes)],
    }
}

fn inspect(server: &Server, home: &Path, level: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
    command.args(["inspect", "org/tiny", "--json", "--log-level", level]);
    command.env("HF_ENDPOINT", format!("http://{}", server.address)).env("HF_HOME", home);
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn a_name_is_fetched_and_that_is_said_only_if_wanted() {
    let (server, dir) = (Server::with(hub), scratch());
    for (level, lines) in [("info", 2), ("warn", 0), ("error", 0)] {
        let output = inspect(&server, &dir.path().join(level), level);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.lines().filter(|line| line.starts_with("fetching ")).count(), lines, "{level}: {said}");
        assert!(lines > 0 || said.is_empty(), "{level}: {said}");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document["layers"], 2);
    }
}
