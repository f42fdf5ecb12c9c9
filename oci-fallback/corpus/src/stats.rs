//! Owns what may be said of a share that was counted: how far it can be off.

/// So many of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) good: usize,
    pub(crate) all: usize,
}

impl Share {
    pub(crate) fn count(outcomes: impl Iterator<Item = bool>) -> Self {
        outcomes.fold(Self::default(), |share, good| Self { good: share.good + usize::from(good), all: share.all + 1 })
    }

    /// The share itself.
    pub(crate) fn rate(self) -> f64 {
        number(self.good) / number(self.all).max(1.0)
    }

    /// Wilson's interval at 95 %, which holds for few and for all of all.
    pub(crate) fn interval(self) -> (f64, f64) {
        if self.all == 0 {
            return (0.0, 1.0);
        }
        let (n, p, z) = (number(self.all), self.rate(), 1.959_963_985);
        let middle = p + z * z / (2.0 * n);
        let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z * z / n;
        (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
    }

    /// `98.1 % (104 of 106; 93.4 to 99.5)`.
    pub(crate) fn words(self) -> String {
        let (low, high) = self.interval();
        format!(
            "{:.1} % ({} of {}; {:.1} to {:.1})",
            self.rate() * 100.0,
            self.good,
            self.all,
            low * 100.0,
            high * 100.0
        )
    }
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the figures of Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    #[test]
    fn intervals_are_those_of_the_literature() {
        for (good, all, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let (l, h) = Share { good, all }.interval();
            assert!((l - low).abs() < 5e-5 && (h - high).abs() < 5e-5, "{good}/{all}: {l} {h}");
        }
        assert_eq!(Share::count([true, false, true].into_iter()).words(), "66.7 % (2 of 3; 20.8 to 93.9)");
    }
}
