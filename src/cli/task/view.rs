//! Owns how a task looks to people: short words for its stable fields, which are [`TaskView`]'s.

use std::time::Duration;

pub(super) use crate::task::{LogView, TaskView, rfc3339, time};

/// A task in short words.
pub(super) trait Shown {
    /// How long ago it was submitted: `3m`.
    fn age(&self) -> String;
    /// How long its guest ran, or has run so far.
    fn took(&self) -> String;
    /// The exit code, or why there is none.
    fn outcome(&self) -> String;
    /// The reference, with its digest cut.
    fn artifact(&self) -> String;
    /// The colour of its status.
    fn color(&self) -> &'static str;
}

impl Shown for TaskView {
    fn age(&self) -> String {
        self.since_submit.map_or_else(dash, age)
    }

    fn took(&self) -> String {
        self.run_us.map(Duration::from_micros).or(self.since_start).map_or_else(dash, span)
    }

    fn outcome(&self) -> String {
        match (self.exit_code, &self.end_reason) {
            (Some(code), _) => code.to_string(),
            (None, Some(reason)) => reason.clone(),
            (None, None) => dash(),
        }
    }

    fn artifact(&self) -> String {
        match self.reference.split_once('@') {
            Some((name, digest)) => format!("{name}@{}", crate::cli::print::short(digest)),
            None if self.reference.starts_with("sha") => crate::cli::print::short(&self.reference),
            None => self.reference.clone(),
        }
    }

    fn color(&self) -> &'static str {
        match self.status {
            "succeeded" => "32",
            "preparing" | "running" => "36",
            "cancelled" => "33",
            "failed" | "timed_out" | "refused" | "lost" => "31",
            _ => "2",
        }
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// A time that has passed, in its largest unit alone.
fn age(passed: Duration) -> String {
    match passed.as_secs() {
        s @ ..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// A duration with two or three digits that matter.
pub(super) fn span(duration: Duration) -> String {
    let (us, s) = (duration.as_micros(), duration.as_secs());
    match us {
        ..1_000 => format!("{us}µs"),
        1_000..10_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        10_000..1_000_000 => format!("{}ms", us / 1000),
        1_000_000..60_000_000 => format!("{s}.{}s", us / 100_000 % 10),
        _ if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::{EndReason, Execution, Task, TaskEnd, TaskSpec};

    use super::*;

    #[test]
    fn a_task_is_said_in_short_words() {
        let task = Task {
            spec: Some(TaskSpec {
                reference: format!("localhost:5000/app@sha256:{}", "a".repeat(64)),
                ..TaskSpec::default()
            }),
            end: Some(TaskEnd { reason: EndReason::WallClockLimit.into(), ..TaskEnd::default() }),
            execution: Some(Execution {
                run: Some(prost_types::Duration { seconds: 1, nanos: 2000 }),
                ..Execution::default()
            }),
            ..Task::default()
        };
        let view = TaskView::from(&task);
        assert_eq!(view.artifact(), "localhost:5000/app@sha256:aaaaaaaaaaaa");
        assert_eq!((view.outcome().as_str(), view.took().as_str()), ("wall_clock_limit", "1.0s"));
    }

    #[test]
    fn durations_are_short() {
        let ages = [(5, "5s"), (200, "3m"), (7200, "2h"), (200_000, "2d")];
        assert!(ages.iter().all(|(s, text)| age(Duration::from_secs(*s)) == *text));
        for (us, text) in [
            (850, "850µs"),
            (1_250, "1.2ms"),
            (120_000, "120ms"),
            (1_250_000, "1.2s"),
            (192_000_000, "3m12s"),
            (7_500_000_000, "2h05m"),
        ] {
            assert_eq!(span(Duration::from_micros(us)), text);
        }
    }
}
