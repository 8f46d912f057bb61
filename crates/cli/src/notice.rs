//! What a person is told on stderr while something runs.
use std::fmt::Arguments;
use std::io::Write;

/// A line on stderr. One that cannot be written (a full disk, a closed pipe) is lost, and the work goes on.
pub fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Progress of a download (file, bytes fetched, bytes in all) that names each file once; silent unless it `talks`.
pub fn fetching(talks: bool) -> impl FnMut(&str, u64, u64) {
    let mut shown = String::new();
    move |file, done, total| {
        if talks && shown != file && done < total {
            say(format_args!("fetching {file} ({:.1} MB)", total as f64 / 1e6));
            shown = file.to_owned();
        }
    }
}
