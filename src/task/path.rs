//! Owns which spans of a trace decided how long it took.

use std::time::SystemTime;

use vyr_proto::v0::Span;

use super::instant;

/// When a span began and ended; one that goes on ends `now`.
#[must_use]
pub fn span_times(span: &Span, now: SystemTime) -> (SystemTime, SystemTime) {
    let start = span.started_at.map_or(now, instant);
    (start, span.ended_at.map_or(now, instant).max(start))
}

/// For each span of a trace whether it is on the critical path: from the end of the first span backwards, what ended last
/// before the point that is reached, and the same within it. Shortening any other changes nothing.
#[must_use]
pub fn critical_path(spans: &[Span], now: SystemTime) -> Vec<bool> {
    let times: Vec<_> = spans.iter().map(|span| span_times(span, now)).collect();
    let mut on_path = vec![false; spans.len()];
    if let Some(first) = times.first() {
        mark(spans, &times, &mut on_path, 0, first.1);
    }
    on_path
}

/// Clocks of different threads differ a little: what lies mostly before a point was before it.
fn middle((start, end): (SystemTime, SystemTime)) -> SystemTime {
    start + end.duration_since(start).unwrap_or_default() / 2
}

fn mark(spans: &[Span], times: &[(SystemTime, SystemTime)], on_path: &mut [bool], which: usize, until: SystemTime) {
    if std::mem::replace(&mut on_path[which], true) {
        return;
    }
    let (start, end) = times[which];
    let mut reached = until.min(end);
    loop {
        let below = (0..spans.len()).filter(|&i| i != which && spans[i].parent_span_id == spans[which].span_id);
        let next = below
            .filter(|&i| !on_path[i] && middle(times[i]) < reached && times[i].1 > start)
            .max_by_key(|&i| times[i].1.min(reached));
        let Some(next) = next else { return };
        mark(spans, times, on_path, next, reached);
        reached = times[next].0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::timestamp;

    fn span(id: &str, parent: &str, start: i64, end: i64) -> Span {
        Span {
            span_id: id.into(),
            parent_span_id: parent.into(),
            started_at: Some(timestamp(start)),
            ended_at: Some(timestamp(end)),
            ..Span::default()
        }
    }

    #[test]
    fn what_ran_beside_something_longer_is_not_on_it() {
        let spans = [
            span("task", "", 0, 100),
            span("pull", "task", 0, 60),
            span("blob-1", "pull", 0, 20),
            span("blob-2", "pull", 5, 58),
            span("run", "task", 61, 100),
            span("elsewhere", "nobody", 0, 100),
        ];
        assert_eq!(critical_path(&spans, SystemTime::now()), [true, true, false, true, true, false]);
        assert!(critical_path(&[], SystemTime::now()).is_empty());
        // A span that claims to be its own parent ends nothing.
        assert_eq!(critical_path(&[span("a", "a", 0, 1)], SystemTime::now()), [true]);
    }
}
