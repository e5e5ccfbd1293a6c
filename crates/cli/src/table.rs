//! Columns for people.

use unicode_width::UnicodeWidthStr;

/// Which side the cells of a column lean to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Rows of cells as lines in which each column is as wide as its widest cell, two spaces apart. Columns that no
/// side is given for lean left. Cells must be escaped already.
pub(crate) fn aligned(rows: &[Vec<String>], sides: &[Side]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for ((cell, width), column) in row.iter().zip(&widths).zip(0..) {
            let space = " ".repeat(width - cell.width().min(*width));
            match sides.get(column) {
                Some(Side::Right) => line.extend([&space, cell.as_str()]),
                Some(Side::Left) | None => line.extend([cell.as_str(), &space]),
            }
            line.push_str("  ");
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["NAME", "N", "WHY"], vec!["a", "10", ""], vec!["\u{8fd0}\u{8f93}", "5"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        let lines = aligned(&rows, &[Side::Left, Side::Right]);
        assert_eq!(lines, ["NAME   N  WHY", "a     10", "\u{8fd0}\u{8f93}   5"]);
        assert_eq!(aligned(&[], &[]), Vec::<String>::new());
    }
}
