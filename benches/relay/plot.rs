//! Bars as SVG.

use std::fmt::Write as _;

use crate::targets::OURS;

const BAR: usize = 20;
const GAP: usize = 6;
const LABEL: usize = 300;
const LENGTH: f64 = 300.0;
const WIDTH: usize = 680;

/// A plot of horizontal bars.
pub struct Plot {
    pub title: String,
    /// Decimals of the figures.
    pub decimals: usize,
    /// A group's own title, and its bars; ours stand out.
    pub groups: Vec<(String, Vec<(String, f64)>)>,
    /// Where a line marks what bars are compared with.
    pub mark: Option<f64>,
}

impl Plot {
    /// A picture of its own, white also on a dark page.
    pub fn svg(&self) -> String {
        let longest = self.longest();
        let (mut body, mut top) = (String::new(), 34);
        for (title, bars) in &self.groups {
            if !title.is_empty() {
                let _ = writeln!(body, "<text x=\"8\" y=\"{}\" fill=\"#222222\">{title}</text>", top + BAR - 5);
                top += BAR + GAP / 2;
            }
            for (name, value) in bars {
                let (length, line) = (value.min(longest) / longest * LENGTH, top + BAR - 5);
                let fill = if name.starts_with(OURS) { "#2f7d4f" } else { "#b9c2bc" };
                let _ = writeln!(
                    body,
                    "<text x=\"{}\" y=\"{line}\" text-anchor=\"end\" fill=\"#222222\">{name}</text>\
                     <rect x=\"{LABEL}\" y=\"{top}\" width=\"{length:.0}\" height=\"{BAR}\" fill=\"{fill}\"/>\
                     <text x=\"{:.0}\" y=\"{line}\" fill=\"#222222\">{value:.*}{}</text>",
                    LABEL - 8,
                    LABEL as f64 + length + 6.0,
                    self.decimals,
                    if *value > longest { " …" } else { "" },
                );
                top += BAR + GAP;
            }
            top += GAP;
        }
        if let Some(mark) = self.mark {
            let at = LABEL as f64 + mark / longest * LENGTH;
            let _ = writeln!(
                body,
                "<line x1=\"{at:.0}\" x2=\"{at:.0}\" y1=\"30\" y2=\"{top}\" stroke=\"#222222\" stroke-dasharray=\"3 3\"/>"
            );
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"8\" y=\"20\" font-weight=\"bold\" fill=\"#222222\">{}</text>\n{body}</svg>\n",
            top + 8,
            self.title
        )
    }

    /// What fills the width: no bar of ours is cut, and one that is far longer does not squeeze the others.
    fn longest(&self) -> f64 {
        let bars = || self.groups.iter().flat_map(|(_, bars)| bars);
        let ours = bars().filter(|(name, _)| name.starts_with(OURS)).map(|(_, value)| *value).fold(0.0, f64::max);
        let longest = bars().map(|(_, value)| *value).fold(self.mark.unwrap_or(f64::MIN_POSITIVE), f64::max);
        if ours > 0.0 { longest.min(3.0 * ours) } else { longest }
    }
}
