//! Line plots as inline SVG.

use std::fmt::Write;

use super::html::escape;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Axis {
    /// Seconds since the start.
    Seconds,
    /// Percentiles, ever finer towards 100: 90, 99, 99.9 lie equally far apart.
    Percentile,
    /// From 0 on, in this unit.
    Linear(&'static str),
    /// By powers of ten, in this unit.
    Log(&'static str),
}

/// A plot of some lines.
pub struct Plot {
    title: &'static str,
    x: Axis,
    y: Axis,
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

impl Plot {
    /// Without lines yet.
    pub fn new(title: &'static str, x: Axis, y: Axis) -> Self {
        Self { title, x, y, lines: Vec::new() }
    }

    /// Adds a line, if it has more than one point.
    pub fn line(&mut self, name: &'static str, points: Vec<(f64, f64)>) {
        if points.len() > 1 {
            self.lines.push((name, points));
        }
    }

    /// The plot; `None` if there is nothing in it.
    pub fn svg(&self) -> Option<String> {
        if self.lines.is_empty() {
            return None;
        }
        let x = Scale::new(self.x, self.lines.iter().flat_map(|line| &line.1).map(|it| it.0));
        let y = Scale::new(self.y, self.lines.iter().flat_map(|line| &line.1).map(|it| it.1));
        let at_x = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
        let at_y = |value: f64| HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
            escape(self.title)
        );
        for (value, label) in y.ticks() {
            let place = at_y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{place:.1}\" y2=\"{place:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                place + 4.0,
            );
        }
        for (value, label) in x.ticks() {
            let place = at_x(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{place:.1}\" x2=\"{place:.1}\" y1=\"{TOP}\" y2=\"{}\"/>\
                 <text x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 16.0,
            );
        }
        let mut legend = String::new();
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let _ = write!(svg, "<polyline class=\"s{number}\" points=\"");
            for (px, py) in points {
                let _ = write!(svg, "{:.1},{:.1} ", at_x(*px), at_y(*py));
            }
            svg.push_str("\"/>");
            let _ = write!(legend, "<span class=\"k k{number}\"></span>{}", escape(name));
        }
        let _ = writeln!(svg, "</svg><div class=\"legend\">{legend}</div></figure>");
        Some(svg)
    }
}

struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Scale {
    fn new(axis: Axis, values: impl Iterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let (low, high) = match axis {
            Axis::Seconds => (least.min(most), most.max(least + 0.1)),
            Axis::Linear(_) => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
            Axis::Log(_) => {
                let low = least.max(1e-3).log10().floor();
                (low, most.max(1e-3).log10().ceil().max(low + 1.0))
            }
            Axis::Percentile => {
                let below = values.iter().copied().filter(|value| *value < 100.0);
                (0.0, percentile_place(below.fold(90.0, f64::max)) + 0.3)
            }
        };
        Self { axis, low, high }
    }

    /// Where a value lies, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let value = match self.axis {
            Axis::Log(_) => value.max(1e-3).log10(),
            Axis::Percentile => percentile_place(value),
            _ => value,
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.axis {
            Axis::Percentile => ["0", "90", "99", "99.9", "99.99", "99.999", "99.9999"]
                .iter()
                .filter_map(|label| Some((label.parse::<f64>().ok()?, format!("{label} %"))))
                .filter(|(value, _)| percentile_place(*value) <= self.high)
                .collect(),
            Axis::Log(unit) => (self.low as i32..=self.high as i32)
                .map(|power| (10f64.powi(power), format!("{} {unit}", 10f64.powi(power))))
                .collect(),
            Axis::Seconds | Axis::Linear(_) => {
                let step = step((self.high - self.low) / 5.0);
                let first = (self.low / step).ceil() as i64;
                (first..)
                    .map(|number| number as f64 * step)
                    .take_while(|value| *value <= self.high)
                    .map(|value| (value, self.label(value)))
                    .collect()
            }
        }
    }

    fn label(&self, value: f64) -> String {
        let (value, prefix) = match value {
            value if value >= 1e9 => (value / 1e9, "G"),
            value if value >= 1e6 => (value / 1e6, "M"),
            value if value >= 1e3 => (value / 1e3, "k"),
            value => (value, ""),
        };
        let number = (value * 100.0).round() / 100.0;
        match self.axis {
            Axis::Seconds => format!("{number}{prefix} s"),
            Axis::Linear(unit) => format!("{number} {prefix}{unit}"),
            _ => number.to_string(),
        }
    }
}

/// 90 at 1, 99 at 2, 99.9 at 3.
fn percentile_place(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-9).log10()
}

/// The round number (1, 2 or 5 times a power of ten) at or above `least`.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * power)
        .into_iter()
        .find(|it| *it >= least)
        .unwrap_or(power)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_lie_inside_the_plot() {
        let mut plot = Plot::new("a < b", Axis::Seconds, Axis::Linear("B"));
        assert!(plot.svg().is_none());
        plot.line("x", vec![(1.0, 0.0), (2.0, 10.0)]);
        let svg = plot.svg().unwrap();
        assert!(svg.contains("a &lt; b") && svg.contains("64.0,214.0"), "{svg}");
    }

    #[test]
    fn nines_are_equally_far_apart() {
        let scale = Scale::new(Axis::Percentile, [0.0, 99.9, 100.0].into_iter());
        let gap = |a, b| scale.place(b) - scale.place(a);
        assert!((gap(90.0, 99.0) - gap(99.0, 99.9)).abs() < 1e-6);
        assert!(scale.place(100.0) <= 1.0);
        assert_eq!(scale.ticks().last().unwrap().1, "99.9 %");
    }

    #[test]
    fn steps_are_round() {
        for (least, expected) in [(0.3, 0.5), (1.0, 1.0), (1.1, 2.0), (700.0, 1000.0)] {
            assert!((step(least) - expected).abs() < 1e-9);
        }
    }
}
