//! Owns how often something is tried again, and how long is waited before that: the plan, and what the registry asks for.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

use super::error::Failure;
use super::transport::Core;

impl Core {
    fn policy(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.options.retry_delay)
            .with_max_delay(self.options.retry_delay_max)
            .with_max_times(self.options.retries)
            .with_jitter()
    }

    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        self.policy().build()
    }

    /// How long to wait before the next try; `None` when there is to be none.
    pub(super) fn wait_for(&self, failure: &Failure, planned: Option<Duration>) -> Option<Duration> {
        let planned = planned.filter(|_| failure.transient)?;
        match failure.retry_after {
            Some(asked) if asked > self.options.retry_delay_max => None,
            Some(asked) => Some(asked.max(planned)),
            None => Some(planned),
        }
    }

    /// Repeats `attempt` while its failure is transient.
    pub(super) async fn retrying<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        attempt
            .retry(self.policy())
            .when(|failure: &Failure| failure.transient)
            .adjust(|failure, planned| self.wait_for(failure, planned))
            .notify(|failure, delay| tracing::debug!(error = %failure.error, ?delay, "trying again"))
            .await
    }
}

/// What `Retry-After` asks for (RFC 9110, section 10.2.3): seconds, or a date. A date is counted from the answer's own where
/// it has one, so that it doesn't matter whose clock is wrong.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.trim());
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let from = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
    Some(until.duration_since(from).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;
    use reqwest::header::HeaderValue;

    use super::super::ClientOptions;
    use super::super::transport::failure_for_status;
    use super::*;

    #[test]
    fn a_long_retry_after_ends_the_trying_and_a_short_one_is_kept() {
        let core =
            Core::new(ClientOptions { retry_delay_max: Duration::from_secs(5), ..ClientOptions::default() }).unwrap();
        let mut failure =
            failure_for_status("t", "r", false, StatusCode::TOO_MANY_REQUESTS, b"", Some(Duration::from_secs(3)));
        assert_eq!(core.wait_for(&failure, Some(Duration::from_millis(1))), Some(Duration::from_secs(3)));
        assert_eq!(core.wait_for(&failure, None), None);
        failure.retry_after = Some(Duration::from_secs(600));
        assert_eq!(core.wait_for(&failure, Some(Duration::from_millis(1))), None);
    }

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let asked = |after: &'static str, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
            date.map(|date| headers.insert(DATE, HeaderValue::from_static(date)));
            retry_after(&headers)
        };
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(asked(" 7 ", None), Some(Duration::from_secs(7)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:09 GMT", date), Some(Duration::from_secs(9)));
        assert_eq!(asked("Wed, 21 Oct 2015 07:27:00 GMT", date), Some(Duration::ZERO), "it has passed");
        assert_eq!(asked("Wed, 21 Oct 2015 07:28:00 GMT", None), Some(Duration::ZERO));
        assert!(asked("Fri, 31 Dec 2100 23:59:59 GMT", None) > Some(Duration::from_secs(1 << 30)));
        for nonsense in ["", "soon", "-1", "1.5", "99999999999999999999", "Wed, 99 Oct 2015 07:28:00 GMT"] {
            assert_eq!(asked(nonsense, date), None, "{nonsense}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
