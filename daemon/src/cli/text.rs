//! How things are shown: tables, times, and text from elsewhere made harmless.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use groundswell_signer::terminal::{is_harmless, plain, plain_lines};

/// Text that a host, a hook or a document supplied, harmless and no longer than people read.
pub(crate) fn short(text: &str) -> String {
    let mut text = plain(text);
    if let Some((at, _)) = text.char_indices().nth(LINE_CHARS_MAX) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

/// A line of bytes that a script has written, harmless, with nothing left out: what is no UTF-8 is shown
/// as `\xff`. Tabs stay what they are.
pub(crate) fn plain_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let columns: Vec<_> = chunk.valid().split('\t').map(plain).collect();
        text.push_str(&columns.join("\t"));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// JSON that means the same, in which no character moves a cursor.
pub(crate) fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        // Line breaks stand between values only; everything else that is escaped is in a string.
        if c == '\n' || is_harmless(c) {
            plain.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                plain.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    plain
}

/// Columns as wide as their widest cell, two spaces between them.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(ToString::to_string).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| short(&cell)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `12 s`, `3 min`, `5 h` or `4 d`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long ago a time in seconds since 1970 was.
pub(crate) fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format!("{} ago", duration(now.saturating_sub(at)))
}

/// `a thing`, or a dash for none.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// Longer lines were not written for people. The longest reason of an order fits.
const LINE_CHARS_MAX: usize = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut() {
        assert_eq!(short("a\n"), "a\\n");
        let longest = "é".repeat(LINE_CHARS_MAX);
        assert_eq!(short(&longest), longest);
        assert_eq!(short(&format!("{longest}é")), format!("{longest}..."));
    }

    #[test]
    fn bytes_of_scripts_move_no_cursor_and_are_all_shown() {
        let hostile =
            b"\x1b[2J\x1b]0;title\x07\xff\xc3a\tb\r\x9b1m\xe2\x80\xae gr\xc3\xb6\xc3\x9fe";
        let shown = "\\u{1b}[2J\\u{1b}]0;title\\u{7}\\xff\\xc3a\tb\\r\\x9b1m\\u{202e} größe";
        assert_eq!(plain_bytes(hostile), shown);
        let all: Vec<u8> = (0..=u8::MAX).collect();
        assert!(plain_bytes(&all).chars().all(|c| c == '\t' || is_harmless(c)));
    }

    #[test]
    fn harmless_json_means_the_same() {
        let value = serde_json::json!({"text": "a\u{9b}2J\u{202e}\x1b\n世界"});
        let text = plain_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(text.chars().all(|c| c == '\n' || is_harmless(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["HOST", "STATE"]);
        table.row(["web-1".into(), "idle".into()]);
        table.row(["x".into(), String::new()]);
        assert_eq!(table.to_string(), "HOST   STATE\nweb-1  idle\nx\n");
    }

    #[test]
    fn durations_have_one_unit() {
        let shown = [0, 119, 120, 7199, 7200, 172_800].map(duration);
        assert_eq!(shown, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
