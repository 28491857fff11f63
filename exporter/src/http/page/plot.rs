//! Small bar plots of the last scrapes, as SVG paths, with a text description for screen readers.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::format;
use crate::scrape_history::MAX_SCRAPES;

const HEIGHT: usize = 40;
/// The distance between bars and the width of a bar, in units of the drawing.
const STEP: usize = 4;
const BAR: usize = 3;

/// A plot of `values`, the oldest first; none for a failed scrape. `show` formats a value with its unit.
pub fn plot(title: &str, values: &[Option<f64>], show: impl Fn(f64) -> String) -> Markup {
    let mut known: Vec<f64> = values.iter().copied().flatten().collect();
    known.sort_by(f64::total_cmp);
    let shown = |value: Option<&f64>| value.map_or("none".to_owned(), |&value| show(value));
    let last = shown(values.last().and_then(Option::as_ref));
    let (median, highest) = (shown(known.get(known.len() / 2)), shown(known.last()));
    let failed = values.len() - known.len();
    let failed = if failed > 0 { format!("; {failed} failed") } else { String::new() };
    let scrapes = format::plural(values.len(), "scrape");
    let description =
        format!("{title} of the last {scrapes}: last {last}, median {median}, highest {highest}{failed}");
    let width = MAX_SCRAPES * STEP;
    html! {
        figure {
            figcaption { (title) }
            strong { @if values.last().is_some_and(Option::is_none) { "–" } @else { (last) } }
            svg role="img" aria-label=(description) viewBox=(format!("0 0 {width} {HEIGHT}")) preserveAspectRatio="none" {
                path.bars d=(bars(values, known.last().copied().unwrap_or(0.0))) {}
                path.lost d=(gaps(values)) {}
            }
            small { span { "median " (median) } span { "peak " (highest) } }
        }
    }
}

/// A bar for each value, the newest at the right edge, each at least one unit high.
fn bars(values: &[Option<f64>], highest: f64) -> String {
    let mut path = String::new();
    for (left, value) in placed(values) {
        let Some(value) = value else { continue };
        let share = if highest > 0.0 { (value / highest).clamp(0.0, 1.0) } else { 0.0 };
        let height = (share * HEIGHT as f64).max(1.0);
        let _ = write!(path, "M{left} {HEIGHT}v-{height:.1}h{BAR}V{HEIGHT}z");
    }
    path
}

/// A bar of full height for each failed scrape.
fn gaps(values: &[Option<f64>]) -> String {
    let mut path = String::new();
    for (left, _) in placed(values).filter(|(_, value)| value.is_none()) {
        let _ = write!(path, "M{left} 0h{BAR}V{HEIGHT}h-{BAR}z");
    }
    path
}

fn placed(values: &[Option<f64>]) -> impl Iterator<Item = (usize, Option<f64>)> {
    let kept = &values[values.len().saturating_sub(MAX_SCRAPES)..];
    let first = MAX_SCRAPES - kept.len();
    kept.iter().enumerate().map(move |(at, value)| ((first + at) * STEP, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_aligned_to_the_right_and_a_failed_scrape_has_its_own_bar() {
        let values = [Some(2.0), None, Some(4.0)];
        assert_eq!(bars(&values, 4.0), "M228 40v-20.0h3V40zM236 40v-40.0h3V40z");
        assert_eq!(gaps(&values), "M232 0h3V40h-3z");
    }

    #[test]
    fn empty_and_zero_values_stay_within_the_plot() {
        assert_eq!(bars(&[], 0.0), "");
        assert_eq!(bars(&[Some(0.0)], 0.0), "M236 40v-1.0h3V40z");
        let many = vec![Some(1.0); 2 * MAX_SCRAPES];
        assert!(bars(&many, 1.0).starts_with("M0 40v"));
    }

    #[test]
    fn a_plot_has_a_text_description() {
        let plot = plot("Series", &[Some(3.0), None, Some(5.0)], |value| format!("{value:.0}")).into_string();
        let words = "Series of the last 3 scrapes: last 5, median 5, highest 5; 1 failed";
        assert!(plot.contains(&format!("aria-label=\"{words}\"")), "{plot}");
    }
}
