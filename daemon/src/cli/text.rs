//! How things are shown: tables, times, and text from elsewhere made harmless.

use std::time::{SystemTime, UNIX_EPOCH};

/// Text that a host, a hook or a document supplied, so that nothing in it moves a cursor or turns
/// the reading direction.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if is_harmless(c) { c.to_string() } else { c.escape_default().to_string() })
        .collect()
}

fn is_harmless(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !turns
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
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2J\u{202e}b\r"), "a\\u{1b}[2J\\u{202e}b\\r");
        assert_eq!(plain("größe 世界"), "größe 世界");
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
