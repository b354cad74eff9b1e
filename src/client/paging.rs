//! Lists of more than one page.
//!
//! Each function asks page after page until it has `limit` items or all there are. The
//! `next_page_token` of the result is empty exactly when nothing was left behind.

use super::{Client, Error};
use crate::pb::v1::{
    ListBreakersRequest, ListBreakersResponse, ListCalendarsRequest, ListCalendarsResponse, ListJobsRequest,
    ListJobsResponse, ListNamespacesRequest, ListNamespacesResponse, ListRunsRequest, ListRunsResponse,
    ListWorkersRequest, ListWorkersResponse,
};

/// Items asked for at a time; the API serves up to 1,000.
const PAGE_SIZE: usize = 500;

macro_rules! pages {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident.$items:ident by $call:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// As the call for one page.
            pub async fn $name(client: &Client, request: $request, limit: usize) -> Result<$answer, Error> {
                let mut all = $answer::default();
                let mut token = request.page_token.clone();
                while all.$items.len() < limit {
                    let page_size = (limit - all.$items.len()).min(PAGE_SIZE) as u32;
                    let page = $request { page_size, page_token: token, ..request.clone() };
                    let mut page = client.$call(page).await?;
                    all.$items.append(&mut page.$items);
                    token = page.next_page_token;
                    if token.is_empty() {
                        break;
                    }
                }
                all.next_page_token = token;
                Ok(all)
            }
        )*
    };
}

pages! {
    /// Jobs, in the order of namespace and name.
    jobs(ListJobsRequest) -> ListJobsResponse.jobs by list_jobs;
    /// Runs, newest first.
    runs(ListRunsRequest) -> ListRunsResponse.runs by list_runs;
    /// Breakers, in the order of namespace and name.
    breakers(ListBreakersRequest) -> ListBreakersResponse.breakers by list_breakers;
    /// Namespaces, in the order of their names.
    namespaces(ListNamespacesRequest) -> ListNamespacesResponse.namespaces by list_namespaces;
    /// Calendars, in the order of their names.
    calendars(ListCalendarsRequest) -> ListCalendarsResponse.calendars by list_calendars;
    /// Workers, in the order of their names.
    workers(ListWorkersRequest) -> ListWorkersResponse.workers by list_workers;
}
