//! Owns the picture of the soak: each figure over time, in a strip of its own.

use std::fmt::Write as _;

use super::measured::Measured;

const WIDTH: f64 = 790.0;
const STRIP: f64 = 90.0;
const LEFT: f64 = 190.0;

/// An SVG with a strip for each of the soak's figures; each axis begins at 0.
pub(crate) fn soak(samples: &[Measured]) -> String {
    let mut cases: Vec<&str> = Vec::new();
    for sample in samples {
        if !cases.contains(&sample.case.as_str()) {
            cases.push(&sample.case);
        }
    }
    let height = STRIP * f64::from(u32::try_from(cases.len()).unwrap_or(0)) + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
    );
    let second = |s: &Measured| f64::from(u32::try_from(s.round).unwrap_or(0));
    let last = samples.iter().map(second).fold(1.0, f64::max);
    for (strip, case) in (0_u32..).zip(cases) {
        let own: Vec<&Measured> = samples.iter().filter(|s| s.case == case).collect();
        let most = own.iter().map(|s| s.value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let bottom = STRIP * f64::from(strip + 1);
        let points: Vec<String> = own
            .iter()
            .map(|s| {
                let x = LEFT + second(s) / last * (WIDTH - LEFT - 20.0);
                format!("{x:.1},{:.1}", bottom - s.value / most * (STRIP - 25.0))
            })
            .collect();
        let (unit, shown) = own.first().map_or(("", most), |s| match s.unit.as_str() {
            "KiB" => ("MiB", most / 1024.0),
            "us" => ("ms", most / 1000.0),
            unit => (unit, most),
        });
        let _ = write!(
            svg,
            "<text x=\"10\" y=\"{:.1}\">{}</text><text x=\"10\" y=\"{:.1}\" fill=\"#777777\">top {shown:.1} \
             {unit}</text><line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{:.1}\" y2=\"{bottom}\" stroke=\"#cccccc\"/>\
             <polyline points=\"{}\" fill=\"none\" stroke=\"#2b6cb0\" stroke-width=\"1.5\"/>",
            bottom - STRIP / 2.0,
            case.trim_start_matches("soak: "),
            bottom - STRIP / 2.0 + 16.0,
            WIDTH - 20.0,
            points.join(" ")
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#777777\">0 to {last:.0} s; each strip begins at 0</text></svg>",
        height - 8.0
    );
    svg
}
