//! One blob: resumed where it broke off, checked for size and digest, moved to its name only when whole.
use super::cache::{RepoCache, create_parent};
use super::error::{HubError, Result};
use super::http::{FileInfo, Http};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use ureq::Body;
use ureq::http::{Response, header};

const CHUNK: usize = 256 << 10;

/// Makes sure that the blob of `info` is in the cache. `file` is its name for messages; `progress` gets the bytes
/// that are there.
pub(super) fn ensure_blob(
    http: &Http,
    cache: &RepoCache,
    url: &str,
    file: &str,
    info: &FileInfo,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let path = cache.blob(&info.etag);
    create_parent(&path)?;
    let _lock = cache.lock(&info.etag)?;
    if fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == info.size) {
        progress(info.size);
        return Ok(());
    }
    let partial = path.with_file_name(format!("{}.incomplete", info.etag));
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true);
    let mut out = options.open(&partial).map_err(HubError::io(&partial))?;
    // Only bytes never had before count as progress: a server that always cuts must not be asked for ever.
    let mut best = 0;
    http.retry(|moved| {
        let done = receive(http, url, &partial, &mut out, info.size, progress);
        let have = out.metadata().map_err(HubError::io(&partial))?.len();
        *moved = have > best;
        best = best.max(have);
        done
    })?;
    if let Err(error) = check_digest(file, &partial, &mut out, &info.etag) {
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    out.sync_all().map_err(HubError::io(&partial))?;
    fs::rename(&partial, &path).map_err(HubError::io(&path))
}

/// Receives what is missing of `partial`.
fn receive(
    http: &Http,
    url: &str,
    partial: &Path,
    out: &mut File,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut have = out.seek(SeekFrom::End(0)).map_err(HubError::io(partial))?;
    if have > size {
        have = restart(out, partial)?;
    }
    progress(have);
    if have == size {
        return Ok(());
    }
    let response = http.get(url, have)?;
    match response.status().as_u16() {
        206 if have > 0 => check_range(url, &response, have, size)?,
        // The server ignores ranges.
        200 => have = restart(out, partial)?,
        416 => {
            restart(out, partial)?;
            let expected = "a file of the announced size";
            return Err(HubError::protocol(url, expected, format!("less: the range from {have} was refused")));
        }
        other => return Err(HubError::status(url, other)),
    }
    append(url, response, partial, out, have..size, progress)
}

/// Appends a body that must be bytes `span` of the file.
fn append(
    url: &str,
    response: Response<Body>,
    partial: &Path,
    out: &mut File,
    span: Range<u64>,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut have, size) = (span.start, span.end);
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    while have < size {
        let n = body
            .read(&mut chunk)
            .map_err(|e| HubError::transport(url, format!("after {have} of {size} bytes: {e}")))?;
        if n == 0 {
            return Err(HubError::transport(url, format!("ended after {have} of {size} bytes")));
        }
        // More than was announced is cut here and noticed below.
        let n = n.min(usize::try_from(size - have).unwrap_or(usize::MAX)).max(1);
        out.write_all(&chunk[..n]).map_err(HubError::io(partial))?;
        have += n as u64;
        progress(have);
    }
    match body.read(&mut chunk[..1]) {
        Ok(1) => {
            restart(out, partial)?;
            Err(HubError::protocol(url, "a body of the announced size", format!("more than {size} bytes")))
        }
        _ => Ok(()),
    }
}

fn restart(out: &mut File, partial: &Path) -> Result<u64> {
    out.set_len(0).and_then(|()| out.seek(SeekFrom::Start(0))).map_err(HubError::io(partial))
}

/// A part that begins elsewhere, or of a file of another size, must not be appended.
fn check_range(url: &str, response: &Response<Body>, have: u64, size: u64) -> Result<()> {
    let found = response.headers().get(header::CONTENT_RANGE).and_then(|r| r.to_str().ok()).unwrap_or("none");
    let right = found.strip_prefix(&format!("bytes {have}-")).and_then(|rest| rest.split_once('/'));
    match right {
        Some((_, total)) if total == "*" || total == size.to_string() => Ok(()),
        _ => Err(HubError::protocol(url, "the range that was asked for", found)),
    }
}

/// Compares with the etag where that is a SHA-256; others (git's object ids) are only checked for size.
fn check_digest(file: &str, path: &Path, blob: &mut File, etag: &str) -> Result<()> {
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    blob.seek(SeekFrom::Start(0)).map_err(HubError::io(path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match blob.read(&mut chunk).map_err(HubError::io(path))? {
            0 => break,
            n => hash.update(&chunk[..n]),
        }
    }
    let found: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found == etag.to_ascii_lowercase() {
        return Ok(());
    }
    Err(HubError::Digest { file: file.to_owned(), expected: etag.to_owned(), found })
}
