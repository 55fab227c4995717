//! Tables of cases that a person who reads no Rust can check.

/// The rows of a table, each as it stands there and in cells. Lines that begin with `#` are for people.
pub(crate) fn rows<const N: usize>(table: &'static str) -> Vec<(&'static str, [&'static str; N])> {
    let is_row = |line: &&str| !line.starts_with('#') && !line.is_empty();
    let cells = |row: &'static str| -> [&str; N] {
        let cells: Vec<_> = row.split_whitespace().collect();
        cells.try_into().unwrap_or_else(|_| panic!("{N} cells: {row}"))
    };
    table.lines().filter(is_row).map(|row| (row, cells(row))).collect()
}
