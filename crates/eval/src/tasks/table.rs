//! Results as the harness prints them: a table in Markdown. Numbers of a column have as many decimals as its longest needs.

/// A cell: numbers stand at the right.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Text(String),
    Number(f64),
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Cell {
        Cell::Text(text.into())
    }
}

/// A table.
pub(super) fn markdown(headers: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut columns = Vec::with_capacity(headers.len());
    for (i, header) in headers.iter().enumerate() {
        columns.push(Column::new(header, rows.iter().map(|row| &row[i])));
    }
    let mut out = String::new();
    line(&mut out, columns.iter().map(|c| c.header()));
    line(&mut out, columns.iter().map(|c| if c.numeric { "-".repeat(c.width - 1) + ":" } else { "-".repeat(c.width) }));
    for i in 0..rows.len() {
        line(&mut out, columns.iter().map(|c| c.cells[i].clone()));
    }
    out
}

struct Column<'a> {
    name: &'a str,
    /// As wide as the column.
    cells: Vec<String>,
    width: usize,
    numeric: bool,
}

/// Markdown's narrowest column.
const NARROWEST: usize = 3;

impl<'a> Column<'a> {
    fn new<'c>(name: &'a str, cells: impl Iterator<Item = &'c Cell> + Clone) -> Column<'a> {
        let decimals = cells.clone().map(decimals).max().unwrap_or(0);
        let text = |cell: &Cell| match cell {
            Cell::Text(text) => (text.clone(), false),
            Cell::Number(x) => (format!("{x:.decimals$}"), true),
        };
        let texts: Vec<(String, bool)> = cells.map(text).collect();
        let longest = texts.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0);
        let width = longest.max(name.chars().count()).max(NARROWEST);
        let numeric = texts.iter().any(|t| t.1) && texts.iter().all(|(t, number)| *number || t.trim().is_empty());
        let pad = |(text, number): &(String, bool)| match number {
            true => format!("{text:>width$}"),
            false => format!("{text:<width$}"),
        };
        Column { name, cells: texts.iter().map(pad).collect(), width, numeric }
    }

    fn header(&self) -> String {
        let space = self.width - self.name.chars().count();
        format!("{}{}{}", " ".repeat(space / 2), self.name, " ".repeat(space - space / 2))
    }
}

/// Decimals of a number that was rounded to four, without its last zeros.
fn decimals(cell: &Cell) -> usize {
    let Cell::Number(x) = cell else { return 0 };
    let text = format!("{x:.4}");
    let text = text.trim_end_matches('0');
    text.split_once('.').map_or(0, |(_, decimals)| decimals.len())
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        out.push('|');
        out.push_str(&cell);
    }
    out.push_str("|\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected tables: pytablewriter 1.2.1 with the harness' cells.
    #[test]
    fn tables_are_pytablewriters() {
        let cells = |version: Option<f64>, metric: &str, value: f64, stderr: Option<f64>| {
            let number = |x: Option<f64>, none: &str| x.map_or(Cell::text(none), Cell::Number);
            let version = number(version, "");
            vec![version, Cell::text(metric), Cell::Number(value), Cell::text("±"), number(stderr, "   N/A")]
        };
        let headers = ["Version", "Metric", "Value", "", "Stderr"];
        let rows = [cells(Some(1.0), "acc", 0.29, Some(0.032)), cells(None, "acc_norm", 0.3, Some(0.04))];
        let expected = "\
|Version| Metric |Value|   |Stderr|
|------:|--------|----:|---|-----:|
|      1|acc     | 0.29|±  | 0.032|
|       |acc_norm| 0.30|±  | 0.040|
";
        assert_eq!(markdown(&headers, &rows), expected);
        let rows = [cells(Some(1.0), "acc", 0.45, Some(0.007)), cells(Some(2.0), "perplexity", 18.1234, None)];
        let expected = "\
|Version|  Metric  | Value |   |Stderr|
|------:|----------|------:|---|------|
|      1|acc       | 0.4500|±  | 0.007|
|      2|perplexity|18.1234|±  |   N/A|
";
        assert_eq!(markdown(&headers, &rows), expected);
    }
}
