//! Bars as SVG: a proxy's own CPU per request.

use std::fmt::Write as _;

use crate::report::Row;
use crate::targets::{DIRECT, OURS};

const BAR: usize = 22;
const LABEL: usize = 150;
const LENGTH: f64 = 380.0;

/// One bar for each proxy; ours stands out.
pub fn cpu(row: &Row) -> String {
    let bars: Vec<(&str, f64)> =
        row.figures.iter().filter(|own| own.name != DIRECT).map(|own| (own.name, own.own)).collect();
    let longest = bars.iter().map(|(_, own)| *own).fold(f64::MIN_POSITIVE, f64::max);
    let height = bars.len() * (BAR + 8) + 40;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\" fill=\"#222222\">{}: own CPU per request, µs</text>\n",
        row.title
    );
    for (index, (name, own)) in bars.iter().enumerate() {
        let top = 34 + index * (BAR + 8);
        let (length, middle) = (own / longest * LENGTH, top + BAR - 6);
        let fill = if name.starts_with(OURS) { "#2f7d4f" } else { "#b9c2bc" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\" fill=\"#222222\">{name}</text>\
             <rect x=\"{LABEL}\" y=\"{top}\" width=\"{length:.0}\" height=\"{BAR}\" fill=\"{fill}\"/>\
             <text x=\"{:.0}\" y=\"{middle}\" fill=\"#222222\">{own:.2}</text>",
            LABEL - 8,
            LABEL as f64 + length + 6.0
        );
    }
    svg + "</svg>\n"
}
