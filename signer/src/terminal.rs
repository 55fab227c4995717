//! Text from elsewhere, made harmless for a terminal.

/// `text` in which nothing moves a cursor, begins a line or turns the reading direction.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmless(c) {
            plain.push(c);
        } else {
            plain.extend(c.escape_default());
        }
    }
    plain
}

/// The same for text of several lines, which stay lines.
pub fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// True for what a terminal only shows.
pub fn is_harmless(c: char) -> bool {
    let turns_or_breaks = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !c.is_control() && !turns_or_breaks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2J\u{202e}b\r\u{9b}"), "a\\u{1b}[2J\\u{202e}b\\r\\u{9b}");
        assert_eq!(plain("größe 世界"), "größe 世界");
        assert_eq!(plain_lines("a\r\nb\u{2028}\n"), "a\nb\\u{2028}");
    }
}
