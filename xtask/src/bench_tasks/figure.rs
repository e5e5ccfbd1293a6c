//! What is measured, what it should be, and the table of both.

use std::fmt::Write;

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// It is told, and nothing is expected of it.
    None,
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) workload: &'static str,
    pub(crate) settings: String,
    pub(crate) name: String,
    /// None if it could not be measured: then the settings say why.
    pub(crate) value: Option<f64>,
    pub(crate) unit: &'static str,
    pub(crate) target: Target,
}

impl Figure {
    pub(crate) fn new(workload: &'static str, settings: &str, name: &str, value: f64, unit: &'static str) -> Figure {
        let (settings, name) = (settings.to_owned(), name.to_owned());
        Figure { workload, settings, name, value: Some(value), unit, target: Target::None }
    }

    pub(crate) fn skipped(workload: &'static str, name: &str, why: &str) -> Figure {
        Figure { value: None, ..Figure::new(workload, why, name, 0.0, "") }
    }

    pub(crate) fn at_most(self, bound: f64) -> Figure {
        Figure { target: Target::AtMost(bound), ..self }
    }

    pub(crate) fn at_least(self, bound: f64) -> Figure {
        Figure { target: Target::AtLeast(bound), ..self }
    }

    /// The figure as a part of its target: above 1 is worse if it bounds from above, below 1 if from below.
    fn ratio(&self) -> Option<f64> {
        match self.target {
            Target::None => None,
            Target::AtMost(bound) | Target::AtLeast(bound) => self.value.map(|value| value / bound),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.value, self.target) {
            (None, _) => "SKIPPED",
            (_, Target::None) => "",
            (Some(value), Target::AtMost(bound)) if value <= bound => "met",
            (Some(value), Target::AtLeast(bound)) if value >= bound => "met",
            _ => "not met",
        }
    }

    fn to_json(&self) -> Value {
        let target = match self.target {
            Target::None => Value::Null,
            Target::AtMost(bound) => json!({ "at_most": bound }),
            Target::AtLeast(bound) => json!({ "at_least": bound }),
        };
        json!({
            "workload": self.workload, "settings": self.settings, "figure": self.name, "value": self.value,
            "unit": self.unit, "target": target, "ratio": self.ratio(), "verdict": self.verdict(),
        })
    }
}

/// Three digits that say something, and thousands apart.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

/// All figures, aligned.
pub(crate) fn table(figures: &[Figure]) -> String {
    let head = ["workload", "figure", "value", "target", "ratio", "", "settings"].map(str::to_owned);
    let row = |figure: &Figure| {
        let unit = figure.unit;
        let target = match figure.target {
            Target::None => String::new(),
            Target::AtMost(bound) => format!("<= {}", number(bound)),
            Target::AtLeast(bound) => format!(">= {}", number(bound)),
        };
        [
            figure.workload.to_owned(),
            figure.name.clone(),
            figure.value.map_or_else(String::new, |value| format!("{} {unit}", number(value))),
            target,
            figure.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            figure.verdict().to_owned(),
            figure.settings.clone(),
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(figures.iter().map(row)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            if (2..=4).contains(&column) {
                let _ = write!(line, "{cell:>width$}  ");
            } else {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The same for machines.
pub(crate) fn to_json(head: &[String], figures: &[Figure]) -> String {
    let figures: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    format!("{:#}\n", json!({ "head": head, "figures": figures }))
}

/// A part of sorted values, such as 0.5 of them.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64) * part) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_side_of_the_target() {
        let figure = |value| Figure::new("w", "s", "f", value, "ms");
        assert_eq!(figure(2.0).at_most(2.0).verdict(), "met");
        assert_eq!(figure(2.1).at_most(2.0).verdict(), "not met");
        assert_eq!(figure(2.0).at_least(2.0).verdict(), "met");
        assert_eq!(figure(1.9).at_least(2.0).verdict(), "not met");
        assert_eq!(figure(1.0).at_least(2.0).ratio(), Some(0.5));
        assert_eq!(Figure::skipped("w", "f", "why").at_most(1.0).verdict(), "SKIPPED");
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        let shown = [0.0, 0.1234, 1.234, 12.34, 123.4, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.123", "1.23", "12.3", "123", "1,234,567"]);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| quantile(&mut values, part)), [1.0, 51.0, 100.0, 100.0]);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}
