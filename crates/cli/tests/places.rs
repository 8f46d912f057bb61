//! Where `planish serve` can be reached besides a TCP port: over TLS, on a Unix socket, on a socket that the service
//! manager has opened.
mod program;

use program::serving::{Serving, ask, command};
use program::{Program, data, golden, scratch, with_words};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const COMPLETION: &str = r#"{"prompt": "Hello", "max_tokens": 3, "ignore_eos": true}"#;

fn model(folder: &Path) -> PathBuf {
    with_words(&golden("llama"), &folder.join("m"))
}

#[test]
fn over_tls_a_client_trusts_the_authority_that_it_is_given() {
    let folder = scratch();
    let model = model(folder.path());
    let tls = |name: &str| data("tls").join(name).display().to_string();
    let (cert, key, model) = (tls("cert.pem"), tls("key.pem"), model.to_str().unwrap());
    let flags = ["--log-level", "error", "--port", "0", "--tls-cert", &cert, "--tls-key", &key, model];
    let server = Serving::start(&flags);
    let url = server.url().replace("127.0.0.1", "localhost");
    assert!(url.starts_with("https://localhost:"), "{url}");
    let client = || Program::new("client --max-tokens 3 --retries 0").arg(&url).input("Hi\n");
    let trusting = client().arg("--ca-cert").arg(tls("ca.pem")).run().ok();
    assert!(trusting.stdout.ends_with('\n'), "{}", trusting.stdout);
    client().run().fails(&["the server was not reached", "certificate"]);
    // Nothing is answered in the clear.
    let plain = format!("http://{}", server.address());
    Program::new("client --retries 0").arg(plain).input("Hi\n").run().fails(&["not reached"]);
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn wrong_certificates_are_named() {
    let folder = scratch();
    let model = model(folder.path());
    let (cert, key) = (data("tls").join("cert.pem"), data("tls").join("key.pem"));
    let serve = |cert: &Path, key: &Path| {
        let program = Program::new("serve --device cpu --port 0").arg(&model);
        program.arg("--tls-cert").arg(cert).arg("--tls-key").arg(key).run()
    };
    serve(&key, &key).fails(&["key.pem", "expected a certificate in PEM"]);
    serve(&cert, &cert).fails(&["cert.pem"]);
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    serve(&empty, &key).fails(&["empty.pem"]);
    let client = Program::new("client https://localhost:1 --retries 0 --ca-cert").arg(&empty).input("Hi\n");
    client.run().fails(&["--ca-cert", "empty.pem"]);
}

#[test]
fn a_unix_socket_comes_and_goes_with_the_server() {
    let folder = scratch();
    let (model, path) = (model(folder.path()), folder.path().join("planish.sock"));
    let flags = ["--log-level", "error", "--unix-socket", path.to_str().unwrap(), model.to_str().unwrap()];
    // One that a killed server left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Serving::start(&flags);
    assert_eq!(server.url(), format!("unix:{}", path.display()));
    let answer = ask(UnixStream::connect(&path).unwrap(), "POST", "/v1/completions", "", COMPLETION);
    assert!(answer.status == 200 && answer.body.contains("\"completion_tokens\":3"), "{}", answer.body);
    assert_eq!(server.terminate().0, Some(0));
    assert!(!path.exists());
    // Another kind of file is never replaced.
    std::fs::write(&path, "mine").unwrap();
    Program::new("serve --device cpu --unix-socket").arg(&path).arg(&model).run().fails(&["planish.sock"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

/// The command behind a shell that hands its standard input on as systemd hands over a socket.
fn activated(args: &[&str], socket: OwnedFd) -> Command {
    let inner = command(args);
    let mut outer = Command::new("sh");
    outer.args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 0</dev/null"]).arg(inner.get_program());
    outer.args(inner.get_args()).stdin(Stdio::from(socket)).stdout(Stdio::piped()).stderr(Stdio::piped());
    outer
}

#[test]
fn the_service_manager_s_socket_is_taken() {
    let folder = scratch();
    let model = model(folder.path());
    let flags = ["--log-level", "error", "--socket-activation", model.to_str().unwrap()];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Serving::of(&mut activated(&flags, listener.into()));
    assert_eq!(server.address(), address);
    assert_eq!(server.ask("POST", "/v1/completions", "", COMPLETION).status, 200);
    assert_eq!(server.terminate().0, Some(0));
    Program::new("serve --device cpu --socket-activation").arg(&model).run().fails(&["LISTEN_FDS"]);
    let both = Program::new("serve --socket-activation --unix-socket /tmp/x m").run();
    assert_eq!(both.code, 2);
}

#[test]
fn a_unix_socket_may_be_activated_too() {
    let folder = scratch();
    let (model, path) = (model(folder.path()), folder.path().join("activated.sock"));
    let flags = ["--log-level", "error", "--socket-activation", model.to_str().unwrap()];
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = Serving::of(&mut activated(&flags, listener.into()));
    let answer = ask(UnixStream::connect(&path).unwrap(), "GET", "/ready", "", "");
    assert_eq!((answer.status, server.url()), (200, format!("unix:{}", path.display()).as_str()));
    assert_eq!(server.terminate().0, Some(0));
    assert!(path.exists(), "the service manager's socket is its own");
}
