//! Owns the picture: shares with their intervals, a line each.

use std::fmt::Write as _;

use crate::stats::Share;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 90.0;
const LINE: f64 = 22.0;

/// An SVG of named shares; an empty name leaves a gap.
pub(crate) fn shares(lines: &[(String, Share)]) -> String {
    let height = LINE * f64::from(u32::try_from(lines.len()).unwrap_or(0)) + 40.0;
    let x = |share: f64| LEFT + share * (WIDTH - LEFT - RIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"8\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/><text x=\"{at:.1}\" \
             y=\"{:.1}\" fill=\"#777777\" text-anchor=\"middle\">{:.0} %</text>",
            height - 28.0,
            height - 10.0,
            tick * 100.0,
            at = x(tick),
        );
    }
    for (row, (name, share)) in (0_u32..).zip(lines) {
        if name.is_empty() {
            continue;
        }
        let y = 18.0 + LINE * f64::from(row);
        let (low, high) = share.interval();
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text><line x1=\"{:.1}\" y1=\"{y:.1}\" \
             x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#90aecb\" stroke-width=\"5\"/><circle cx=\"{:.1}\" cy=\"{y:.1}\" \
             r=\"4.5\" fill=\"#2b6cb0\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#777777\">{} of {}</text>",
            LEFT - 12.0,
            y + 4.0,
            x(low),
            x(high),
            x(share.rate()),
            WIDTH - RIGHT + 14.0,
            y + 4.0,
            share.good,
            share.all,
        );
    }
    svg.push_str("</svg>\n");
    svg
}
