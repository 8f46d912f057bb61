//! Server-sent events out of bytes that were cut anywhere.

/// Longest event: an answer in one piece fits.
const LONGEST: usize = 16 << 20;

/// Collects events.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    data: Option<String>,
    after_cr: bool,
}

impl Events {
    /// Takes more bytes; returns the data of the events that are complete.
    ///
    /// # Errors
    /// The size of an event that is too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, usize> {
        let mut events = Vec::new();
        for &byte in bytes {
            let ends = match byte {
                // The second byte of a line's end.
                b'\n' if std::mem::take(&mut self.after_cr) => continue,
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_cr = byte == b'\r';
            if ends {
                events.extend(self.end_line());
            } else {
                self.line.push(byte);
            }
        }
        let size = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if size > LONGEST { Err(size) } else { Ok(events) }
    }

    /// Whether it ends between two events.
    pub fn is_between(&self) -> bool {
        self.line.is_empty() && self.data.is_none()
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let line = String::from_utf8_lossy(&line);
        // Comments and other fields mean nothing here.
        if let Some(value) = line.strip_prefix("data:") {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => *data = format!("{data}\n{value}"),
                None => self.data = Some(value.to_owned()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_were_cut() {
        let text = ": hi\r\nevent: x\r\ndata: {\"a\":\r\ndata:  \"é日🦀\"}\r\n\r\n\ndata:b\n\n:\n\nid: 3\ndata: c\r\rdata: [DONE]\n\n";
        let all = ["{\"a\":\n \"é日🦀\"}", "b", "c", "[DONE]"];
        let bytes = text.as_bytes();
        for cut in 0..=bytes.len() {
            let mut events = Events::default();
            let mut found = events.push(&bytes[..cut]).unwrap();
            found.extend(events.push(&bytes[cut..]).unwrap());
            assert_eq!(found, all, "cut at {cut}");
            assert!(events.is_between());
        }
        let mut events = Events::default();
        assert_eq!(events.push(b"data: x\n"), Ok(vec![]));
        assert!(!events.is_between());
        assert_eq!(Events::default().push(&vec![b'x'; LONGEST + 1]), Err(LONGEST + 1));
    }
}
