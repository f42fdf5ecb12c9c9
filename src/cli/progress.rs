//! Owns bars on stderr: only on a terminal, only for work that lasts.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print::Printer;
use crate::ops::Reporter;
use crate::registry::Progress;

/// Less than this moves before a bar could be read.
const WORTH_A_BAR: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Terminal {
    printer: Printer,
    bars: Option<MultiProgress>,
}

impl Terminal {
    pub(super) fn new(printer: Printer) -> Self {
        let bars = std::io::stderr()
            .is_terminal()
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Self { printer, bars }
    }

    fn above_bars(&self, say: impl FnOnce()) {
        match &self.bars {
            Some(bars) => bars.suspend(say),
            None => say(),
        }
    }
}

impl Reporter for Terminal {
    fn note(&self, text: &str) {
        self.above_bars(|| self.printer.note(text));
    }

    fn warning(&self, text: &str) {
        self.above_bars(|| self.printer.warning(text));
    }

    fn begin(&self, what: &str, total: u64) -> Box<dyn Progress> {
        let Some(bars) = self.bars.as_ref().filter(|_| total >= WORTH_A_BAR) else { return Box::new(()) };
        let bar = bars.add(ProgressBar::new(total));
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:28} {bar:30.cyan/dim} {binary_bytes:>10}/{binary_total_bytes:10} {binary_bytes_per_sec:>12} {eta:>4}",
        ) {
            bar.set_style(style.progress_chars("━━╌"));
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Box::new(Bar(bar))
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn at(&self, position: u64) {
        self.0.set_position(position);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
