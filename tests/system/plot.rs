//! Memory and descriptors over time, as SVG.

use std::fmt::Write as _;
use std::time::Duration;

const LEFT: f64 = 70.0;
const WIDTH: f64 = 580.0;
const HEIGHT: f64 = 120.0;

/// What a process took at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Since the beginning.
    pub at: Duration,
    pub kib: f64,
    pub descriptors: f64,
}

/// Of the processes one after the other.
#[derive(Debug)]
pub struct Plot {
    pub title: String,
    pub lives: Vec<Vec<Point>>,
}

impl Plot {
    /// A picture of its own, white also on a dark page.
    pub fn svg(&self) -> String {
        let mut body = format!("<text x=\"8\" y=\"20\" font-weight=\"bold\" fill=\"#222222\">{}</text>\n", self.title);
        self.panel(&mut body, "resident memory, MiB", 40.0, |point| point.kib / 1024.0);
        self.panel(&mut body, "descriptors", 40.0 + HEIGHT + 60.0, |point| point.descriptors);
        let (width, height) = (LEFT + WIDTH + 30.0, 2.0 * HEIGHT + 150.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }

    fn panel(&self, body: &mut String, what: &str, top: f64, of: impl Fn(&Point) -> f64) {
        let points = || self.lives.iter().flatten();
        let last = points().map(|point| point.at.as_secs_f64()).fold(1.0, f64::max);
        let most = points().map(&of).fold(1.0, f64::max) * 1.2;
        let bottom = top + 14.0 + HEIGHT;
        let _ = writeln!(body, "<text x=\"{LEFT}\" y=\"{top}\" fill=\"#222222\">{what}</text>");
        for share in [0.0, 0.5, 1.0] {
            let (y, value) = (bottom - share * HEIGHT, share * most);
            let _ = writeln!(
                body,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d5dad7\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222222\">{value:.0}</text>",
                LEFT + WIDTH,
                LEFT - 8.0,
                y + 4.0
            );
        }
        for minutes in (0..=(last / 60.0) as u32).step_by(5) {
            let x = LEFT + f64::from(minutes) * 60.0 / last * WIDTH;
            let _ = writeln!(
                body,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#222222\">{minutes} min</text>",
                bottom + 18.0
            );
        }
        for life in &self.lives {
            let place = |point: &Point| {
                let x = LEFT + point.at.as_secs_f64() / last * WIDTH;
                format!("{x:.1},{:.1}", bottom - of(point) / most * HEIGHT)
            };
            let line: Vec<String> = life.iter().map(place).collect();
            let _ = writeln!(
                body,
                "<polyline fill=\"none\" stroke=\"#2f7d4f\" stroke-width=\"1.5\" points=\"{}\"/>",
                line.join(" ")
            );
        }
    }
}

/// The middle one; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
