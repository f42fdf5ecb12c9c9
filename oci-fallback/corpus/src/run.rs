//! Owns the measurement: each case against each engine and each kind of rights, one row for each.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::judge;
use crate::make::Workshop;
use crate::row::{Row, Rows};
use crate::vyr::{Engine, Node, Rights, Task};
use crate::wasm;

/// Runs the cases on one node.
pub(crate) fn run(
    workshop: &Workshop<'_>,
    vyr: &Path,
    engine: Engine,
    rights: Rights,
    cases: &[Case],
    rows: &mut Rows,
) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    ensure!(root, "only root can start nodes with and without its rights");
    let node = Node::start(workshop.kit, vyr, engine, rights)?;
    for case in cases {
        let (task, said) = match one(workshop, &node, case) {
            Ok(task) => {
                let said = wrong(case, &task)?;
                (Some(task), said)
            }
            // Not even a task came of it.
            Err(error) => (None, Some(judge::shortened(format!("{error:#}").as_bytes(), 500))),
        };
        let row = Row {
            case: case.name.clone(),
            engine,
            rights,
            ok: said.is_none(),
            said,
            prepare_us: task.as_ref().and_then(|task| task.prepare_us),
            start_us: task.as_ref().and_then(|task| task.start_us),
            run_us: task.as_ref().and_then(|task| task.run_us),
            why: None,
        };
        tell(&row);
        rows.put(row)?;
    }
    Ok(())
}

/// Says how a run went.
pub(crate) fn tell(row: &Row) {
    let sign = if row.ok { "✓" } else { "✗" };
    let words = row.said.as_deref().unwrap_or_default();
    println!("{sign} {} × {:?} × {:?} {words}", row.case, row.engine, row.rights);
}

fn one(workshop: &Workshop<'_>, node: &Node<'_>, case: &Case) -> Result<Task> {
    let layout = workshop.image(case)?;
    let reference = node.publish(&case.name, &layout, wasm::partner(&case.wasm)?)?;
    node.run(case, &reference)
}

/// What is wrong with a task, or nothing.
fn wrong(case: &Case, task: &Task) -> Result<Option<String>> {
    let mut complaints = Vec::new();
    if task.path.as_deref() != Some("container") {
        complaints.push(format!("it ran as {}", task.path.as_deref().unwrap_or("nothing")));
    }
    let expected = case.reason()?;
    if task.reason.as_deref() != Some(expected) {
        complaints
            .push(format!("the reason is {} in place of {expected}", task.reason.as_deref().unwrap_or("missing")));
    }
    if let Some(words) = judge::wrong(case, &task.came) {
        complaints.push(words);
    }
    if complaints.is_empty() {
        return Ok(None);
    }
    if !task.words.is_empty() {
        complaints.push(format!("VYR says: {}", task.words));
    }
    Ok(Some(judge::shortened(complaints.join("; ").as_bytes(), 900)))
}
