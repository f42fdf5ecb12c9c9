//! Owns which W3C trace context calls carry, so that a task's trace goes on from the program's.

use tonic::metadata::{Ascii, MetadataValue};

use crate::env;
use crate::error::{Error, Result};

/// The header's name.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// A context that somebody gave.
pub(crate) fn given(text: &str) -> Result<MetadataValue<Ascii>> {
    let bad = || {
        Error::usage(format_args!("`{text}` is no W3C trace context"))
            .hint("write 00-<32 hex digits>-<16 hex digits>-<2 hex digits>")
    };
    if is_context(text) { text.parse().map_err(|_| bad()) } else { Err(bad()) }
}

/// The context that the program is in: its current OpenTelemetry span's, else the variable `TRACEPARENT`'s.
pub(crate) fn current() -> Option<MetadataValue<Ascii>> {
    let variable = || env::get(env::TRACEPARENT).filter(|text| is_context(text));
    span().or_else(variable)?.parse().ok()
}

#[cfg(feature = "opentelemetry")]
fn span() -> Option<String> {
    use opentelemetry::trace::TraceContextExt as _;
    let context = opentelemetry::Context::current();
    let span = context.span();
    let at = span.span_context();
    at.is_valid().then(|| format!("00-{}-{}-{:02x}", at.trace_id(), at.span_id(), at.trace_flags().to_u8()))
}

#[cfg(not(feature = "opentelemetry"))]
fn span() -> Option<String> {
    None
}

/// Whether it is one of version 0 (W3C Trace Context, "traceparent Header Field Values").
fn is_context(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    match text.split('-').collect::<Vec<_>>()[..] {
        [version, trace, span, flags] => {
            version == "00"
                && (trace.len(), span.len(), flags.len()) == (32, 16, 2)
                && [trace, span, flags].into_iter().all(hex)
                && some(trace)
                && some(span)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_is_what_the_standard_says() {
        assert_eq!(given(GOOD).unwrap(), GOOD);
        let zero = GOOD.replace("b7ad6b7169203331", "0000000000000000");
        for bad in ["", "00-a-b-01", &GOOD.to_uppercase(), &zero, &GOOD[3..], &GOOD.replace("00-", "ff-")] {
            assert_eq!(given(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[cfg(feature = "opentelemetry")]
    #[test]
    fn the_current_span_is_the_context() {
        use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
        assert!(span().is_none());
        let at = SpanContext::new(
            TraceId::from_hex("0af7651916cd43dd8448eb211c80319c").unwrap(),
            SpanId::from_hex("b7ad6b7169203331").unwrap(),
            TraceFlags::SAMPLED,
            true,
            TraceState::NONE,
        );
        let _current = opentelemetry::Context::new().with_remote_span_context(at).attach();
        assert_eq!(span().unwrap(), GOOD);
    }
}
