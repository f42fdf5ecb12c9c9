//! Listings of many states, by the library as the node's call does it.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use vyr::config::{Config, Flags};
use vyr::ops::{Silent, Vyr, state};
use vyr::state::{StateClass, StateKind};

use super::super::samples::{Sample, micros};
use super::super::stage::Stage;

const STATES: usize = 10_000;

pub(super) async fn measure(stage: &Stage) -> Result<()> {
    let home = stage.folder.path().join("list");
    let config = Config::load(Flags { home: Some(home), ..Flags::default() })?;
    let vyr = Vyr::new(config, Arc::new(Silent));
    let many = if stage.quick { 200 } else { STATES };
    for number in 0..many {
        let request = state::CreateRequest {
            name: format!("state-{number:05}"),
            class: StateClass::Node,
            kind: StateKind::Files,
            quota_bytes: 1 << 20,
            time_to_live: None,
            target: None,
        };
        state::create(&vyr, request).await?;
    }
    let mut samples = Vec::new();
    for round in 0..stage.rounds(100) {
        for (what, most) in [("a page of 100", 100), ("a page of 1000", 1000)] {
            let began = Instant::now();
            // From the middle, as any page.
            let (page, _) = state::list(&vyr, &format!("state-{:05}", many / 2), most).await?;
            let wall_us = micros(began.elapsed());
            ensure!(!page.is_empty(), "nothing is listed");
            samples.push(Sample { case: what.to_owned(), round, wall_us, peak_kib: None });
        }
        let began = Instant::now();
        state::show(&vyr, &format!("state-{:05}", round % many)).await?;
        samples.push(Sample { case: "one".to_owned(), round, wall_us: micros(began.elapsed()), peak_kib: None });
    }
    stage.keep(
        "state-list",
        vec![format!("vyr {}", env!("CARGO_PKG_VERSION"))],
        &format!("listings of a node with {many} states, in process"),
        &samples,
    )
}
