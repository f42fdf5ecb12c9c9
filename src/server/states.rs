//! Owns the requests about states that say something: their fields, each with what is wrong about it.

use std::time::Duration;

use tonic::Status;
use vyr_proto::v0::{self, BindStateRequest, CreateStateRequest};

use super::status::{invalid, status};
use crate::error::{Error, ErrorKind};
use crate::ops::Vyr;
use crate::ops::state::{self, CreateRequest};
use crate::state::{Bound, StateClass, StateKind, StateName, check_alias};

pub(super) async fn create(vyr: &Vyr, request: CreateStateRequest) -> Result<v0::State, Status> {
    let mut wrong = Vec::new();
    if let Err(e) = request.name.parse::<StateName>() {
        wrong.push(("name".to_owned(), e.why().to_owned()));
    }
    let class = match v0::StateClass::try_from(request.class) {
        Ok(v0::StateClass::Task) => Some(StateClass::Task),
        Ok(v0::StateClass::Node) => Some(StateClass::Node),
        Ok(v0::StateClass::Synced) => Some(StateClass::Synced),
        Ok(v0::StateClass::Unspecified) | Err(_) => None,
    };
    if class.is_none() {
        wrong.push(("class".to_owned(), "must be TASK, NODE or SYNCED".to_owned()));
    }
    let kind = match v0::StateKind::try_from(request.kind) {
        Ok(v0::StateKind::Files | v0::StateKind::Unspecified) => Some(StateKind::Files),
        Ok(v0::StateKind::Kv) => Some(StateKind::Kv),
        Err(_) => None,
    };
    if kind.is_none() {
        wrong.push(("kind".to_owned(), format!("{} is not a value of StateKind", request.kind)));
    }
    let time_to_live = request.time_to_live.map(Duration::try_from).transpose();
    if !matches!(&time_to_live, Ok(ttl) if ttl.is_none_or(|ttl| !ttl.is_zero())) {
        wrong.push(("time_to_live".to_owned(), "must be longer than 0".to_owned()));
    }
    let (true, Some(class), Some(kind), Ok(time_to_live)) = (wrong.is_empty(), class, kind, time_to_live) else {
        return Err(invalid(wrong));
    };
    let target = Some(request.sync_target).filter(|target| !target.is_empty());
    let request =
        CreateRequest { name: request.name, class, kind, quota_bytes: request.quota_bytes, time_to_live, target };
    let made = state::create(vyr, request).await.map_err(|e| match e.kind() {
        // The other fields have been looked at.
        ErrorKind::Usage => {
            let field = if e.why().contains("quota") { "quota_bytes" } else { "sync_target" };
            invalid(vec![(field.to_owned(), e.why().to_owned())])
        }
        _ => status(&e),
    })?;
    state::show(vyr, &made.name).await.map_err(|e| status(&e))
}

pub(super) async fn bind(vyr: &Vyr, request: BindStateRequest) -> Result<v0::State, Status> {
    let Some(binding) = request.binding else {
        return Err(invalid(vec![("binding".to_owned(), "must be there".to_owned())]));
    };
    if let Err(e) = check_alias(&binding.alias) {
        return Err(invalid(vec![("binding.alias".to_owned(), e.why().to_owned())]));
    }
    let bound = Bound { artifact: binding.artifact, alias: binding.alias, read_only: binding.read_only };
    state::bind(vyr, &request.state, &bound).await.map_err(|e: Error| match e.kind() {
        ErrorKind::Usage => invalid(vec![("binding.artifact".to_owned(), e.why().to_owned())]),
        _ => status(&e),
    })?;
    state::show(vyr, &request.state).await.map_err(|e| status(&e))
}
