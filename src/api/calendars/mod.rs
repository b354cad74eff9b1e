//! `CalendarService`.

mod read;
#[cfg(test)]
mod tests;

use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};

use super::problem::Problems;
use super::spec::value;
use super::write::Write as _;
use super::{Api, page, status};
use crate::pb::v1 as pb;
use crate::pb::v1::calendar_service_client::CalendarServiceClient;
use crate::pb::v1::calendar_service_server::CalendarService;
use crate::state::calendar::{Calendar, CalendarSpec, change};
use crate::state::{Change, Command, State};
use crate::view;

/// Jobs that a refusal names.
const JOBS_SHOWN: usize = 5;

/// The calendar of a name, or the refusal.
fn calendar<'a>(state: &'a State, name: &str) -> Result<&'a Arc<Calendar>, Status> {
    state.calendar(name).ok_or_else(|| status::no_calendar(name))
}

/// Refuses to delete what jobs name.
fn unused(state: &State, name: &Arc<str>) -> Result<(), Status> {
    let users: Vec<String> = state
        .calendar_users(name)
        .take(JOBS_SHOWN + 1)
        .filter_map(|id| state.job(id))
        .map(|job| format!("{}/{}", job.spec.namespace, job.spec.name))
        .collect();
    if users.is_empty() {
        return Ok(());
    }
    let more = if users.len() > JOBS_SHOWN { " and others" } else { "" };
    let named = users[..users.len().min(JOBS_SHOWN)].join(", ");
    let status = Status::failed_precondition(format!("calendar {name:?} is named by job {named}{more}"));
    Err(status::hinted(status, "take it out of their schedules first"))
}

const fn change_pb(change: Change) -> pb::Change {
    match change {
        Change::Created => pb::Change::Created,
        Change::Updated => pb::Change::Updated,
        Change::Unchanged => pb::Change::Unchanged,
    }
}

impl Api {
    async fn set_calendar_here(
        self,
        mut message: pb::SetCalendarRequest,
    ) -> Result<pb::SetCalendarResponse, Status> {
        let request = message.request();
        let asked = message.spec.take().unwrap_or_default();
        let almanac = self.almanac();
        let read = crate::threads::blocking(move || read::spec(&asked, almanac.zones())).await;
        let spec: Arc<CalendarSpec> = read.map_err(|_| Status::unavailable("the node is ending"))??.into();
        let name = spec.name.as_str();
        let shown = |state: &State, changed| {
            let calendar = state.calendar(name).map(|calendar| view::calendar::to_pb(state, calendar));
            pb::SetCalendarResponse { calendar, change: change_pb(changed).into() }
        };
        if message.dry_run {
            let state = self.state(false).await?;
            let changed = change(state.calendar(name).map(Arc::as_ref), &spec);
            let mut answer = shown(&state, changed);
            let calendar = answer.calendar.get_or_insert_default();
            calendar.spec = Some(view::calendar::spec(&spec));
            return Ok(answer);
        }
        // As it was when the command that took effect was made.
        let changed = Mutex::new(Change::Unchanged);
        let make = |state: &State, _| {
            let change = change(state.calendar(name).map(Arc::as_ref), &spec);
            *changed.lock().unwrap_or_else(PoisonError::into_inner) = change;
            Ok(Command::PutCalendar { spec: Arc::clone(&spec), request: request.clone() })
        };
        self.decide(&request.operation_id, make).await?;
        let changed = *changed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(shown(&self.shared.raft.state(), changed))
    }

    async fn delete_calendar_here(
        self,
        mut message: pb::DeleteCalendarRequest,
    ) -> Result<pb::DeleteCalendarResponse, Status> {
        let request = message.request();
        let mut problems = Problems::new();
        value::name("name", &message.name, &mut problems);
        if !problems.is_empty() {
            return Err(status::invalid(&problems));
        }
        let name: Arc<str> = message.name.as_str().into();
        let make = |state: &State, _| {
            unused(state, &name)?;
            Ok(Command::DeleteCalendar { calendar: Arc::clone(&name), request: request.clone() })
        };
        self.decide(&request.operation_id, make).await?;
        Ok(pb::DeleteCalendarResponse {})
    }
}

#[tonic::async_trait]
impl CalendarService for Api {
    async fn list_calendars(
        &self,
        request: Request<pb::ListCalendarsRequest>,
    ) -> Result<Response<pb::ListCalendarsResponse>, Status> {
        let message = request.into_inner();
        let limit = page::page_size(message.page_size)?;
        let after = page::name(&message.page_token)?.map(|(name, _)| name);
        let state = self.state(message.stale).await?;
        let after = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found: Vec<_> = state.calendars_after(after).take(limit + 1).collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more).map(|last| (last.spec.name.clone(), String::new()));
        let next_page_token = page::after_name(last.as_ref());
        let calendars = found.into_iter().map(|calendar| view::calendar::to_pb(&state, calendar)).collect();
        Ok(Response::new(pb::ListCalendarsResponse { calendars, next_page_token }))
    }

    async fn get_calendar(
        &self,
        request: Request<pb::GetCalendarRequest>,
    ) -> Result<Response<pb::Calendar>, Status> {
        let message = request.into_inner();
        let state = self.state(message.stale).await?;
        let calendar = calendar(&state, &message.name)?;
        Ok(Response::new(view::calendar::to_pb(&state, calendar)))
    }

    async fn set_calendar(
        &self,
        request: Request<pb::SetCalendarRequest>,
    ) -> Result<Response<pb::SetCalendarResponse>, Status> {
        let there =
            |channel, request| async { CalendarServiceClient::new(channel).set_calendar(request).await };
        self.write(request, Self::set_calendar_here, there).await
    }

    async fn delete_calendar(
        &self,
        request: Request<pb::DeleteCalendarRequest>,
    ) -> Result<Response<pb::DeleteCalendarResponse>, Status> {
        let there =
            |channel, request| async { CalendarServiceClient::new(channel).delete_calendar(request).await };
        self.write(request, Self::delete_calendar_here, there).await
    }
}
