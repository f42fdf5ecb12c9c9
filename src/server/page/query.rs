//! Owns the parameters of the page's requests.

use std::collections::BTreeMap;

use vyr_proto::v0::TaskStatus;

use crate::db::Filter;
use crate::error::{Error, ErrorKind, Result};
use crate::task::StatusExt as _;

/// How many rows a page of a listing has, unless asked for, and at most.
const ROWS: (u32, u32) = (100, 500);
/// The statuses that a task can have.
const STATUSES: [TaskStatus; 9] = [
    TaskStatus::Queued,
    TaskStatus::Preparing,
    TaskStatus::Running,
    TaskStatus::Succeeded,
    TaskStatus::Failed,
    TaskStatus::Cancelled,
    TaskStatus::TimedOut,
    TaskStatus::Refused,
    TaskStatus::Lost,
];

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// Which tasks are listed.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    pub(super) filter: Filter,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) rows: u32,
}

fn wrong(name: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Usage, format!("`{name}` {why}"))
}

impl Query {
    pub(super) fn read(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, value)| n == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// A number.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn number<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        self.get(name)
            .map(|text| text.parse().map_err(|e| wrong(name, format_args!("is no such number: {e}"))))
            .transpose()
    }

    /// Which tasks are asked for: `status` (words, separated by commas), `label` (`key=value`, repeatable), `submitter`,
    /// `limit`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn listing(&self) -> Result<Listing> {
        let mut listing =
            Listing { rows: self.number("limit")?.unwrap_or(ROWS.0).clamp(1, ROWS.1), ..Listing::default() };
        for (name, value) in self.0.iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "status" => {
                    for word in value.split(',') {
                        let status = STATUSES.iter().find(|status| status.word() == word);
                        let status = status.ok_or_else(|| wrong("status", format_args!("has no `{word}`")))?;
                        listing.filter.statuses.push(*status);
                    }
                }
                "label" => {
                    let (key, value) = value.split_once('=').ok_or_else(|| wrong("label", "is no `key=value`"))?;
                    listing.labels.insert(key.to_owned(), value.to_owned());
                }
                "submitter" => listing.filter.submitter = Some(value.clone()),
                _ => {}
            }
        }
        Ok(listing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_from_its_parameters() {
        let listing = |text| Query::read(Some(text)).listing();
        let found = listing("status=queued,running&label=team%3Dblue&limit=7&submitter=ci&status=").unwrap();
        assert_eq!(found.filter.statuses, [TaskStatus::Queued, TaskStatus::Running]);
        assert_eq!(found.labels["team"], "blue");
        assert_eq!((found.rows, found.filter.submitter.as_deref()), (7, Some("ci")));
        assert_eq!(listing("").unwrap().rows, ROWS.0);
        assert_eq!(listing("limit=100000").unwrap().rows, ROWS.1);
        for bad in ["status=nonsense", "label=team", "limit=many", "limit=-1", "status=queued,,"] {
            assert_eq!(listing(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn every_status_can_be_asked_for() {
        let known = (1..100).filter(|number| TaskStatus::try_from(*number).is_ok()).count();
        assert_eq!(known, STATUSES.len());
    }
}
