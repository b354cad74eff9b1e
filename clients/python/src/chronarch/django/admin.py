"""The admin of django-celery-beat, with what the cluster knows beside it: when a task is due next, how its last run
went and how late it was, its newest runs, and a way to run it now.

The class that is registered for PeriodicTask is extended, whichever it is. A project that registers its own one later,
or on a site of its own, puts `PeriodicTaskMixin` before its base class.
"""

import datetime
import time
import uuid
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext_lazy as _

from ..errors import ChronarchError, NotFound
from ..models import Job, Run
from . import _look
from .apps import BEAT

NOTHING = "–"
# Tasks that one action runs at most, and the seconds that it may take for it.
RUNS_MAX = 100
RUNS_PATIENCE = 10.0


class PeriodicTaskMixin:
    """For a `ModelAdmin` of django_celery_beat's PeriodicTask."""

    change_form_template = "chronarch/periodictask_form.html"

    # What the list shows.

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        """See `ModelAdmin.get_list_display`."""
        shown: Sequence[Any] = super().get_list_display(request)  # type: ignore[misc]
        return [*shown, "chronarch_next_run", "chronarch_outcome", "chronarch_lateness"]

    def changelist_view(self, request: HttpRequest, extra_context: Optional[Dict[str, Any]] = None) -> HttpResponse:
        """See `ModelAdmin.changelist_view`. The cluster is asked once for all rows of the page."""
        response: HttpResponse = super().changelist_view(request, extra_context)  # type: ignore[misc]
        context = response.context_data if isinstance(response, TemplateResponse) else None
        if context is not None and "cl" in context:
            # The notice that django-celery-beat's own scheduler does not run; it need not.
            context["wrong_scheduler"] = False
            self._note_jobs(request, list(context["cl"].result_list))
        return response

    def _note_jobs(self, request: HttpRequest, rows: List[Any]) -> None:
        if not rows:
            return
        try:
            jobs, is_complete = _look.jobs_of([row.name for row in rows])
        except (_look.Silent, ValueError, OSError) as error:
            for row in rows:
                row.chronarch_seen = _Seen(problem=str(error))
            messages.warning(request, _("The cluster cannot be reached: %s") % error)
            return
        for row in rows:
            row.chronarch_seen = _Seen(jobs.get(row.name), is_complete=is_complete)
        if not is_complete:
            messages.warning(request, _("The cluster has so many jobs that not all were looked for in time."))

    @admin.display(description=_("next run"))  # type: ignore[untyped-decorator]
    def chronarch_next_run(self, row: Any) -> str:
        """When it is due next, in the current time zone."""
        seen = _seen(row)
        if seen.job is None:
            return seen.missing()
        at = _look.next_at(seen.job)
        return _instant(at) if at is not None else str(seen.job.state)

    @admin.display(description=_("last outcome"))  # type: ignore[untyped-decorator]
    def chronarch_outcome(self, row: Any) -> str:
        """How the last run went, and how many have not ended: they wait for a worker, or are being sent."""
        seen = _seen(row)
        ended = NOTHING if seen.last_run is None else _look.outcome(seen.last_run)
        live = 0 if seen.job is None else len(seen.job.live_runs)
        return ended if not live else str(_("%(ended)s; %(live)d not ended") % {"ended": ended, "live": live})

    @admin.display(description=_("lateness"))  # type: ignore[untyped-decorator]
    def chronarch_lateness(self, row: Any) -> str:
        """How long after it was due the last run was sent."""
        run = _seen(row).last_run
        late = None if run is None else _look.lateness(run)
        return NOTHING if late is None else _look.spoken(late)

    # What the page of one task shows.

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[Any]:
        """See `ModelAdmin.get_readonly_fields`."""
        shown: Sequence[Any] = super().get_readonly_fields(request, obj)  # type: ignore[misc]
        return shown if obj is None else [*shown, *_FIELDS]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Sequence[Any]:
        """See `ModelAdmin.get_fieldsets`."""
        shown: Sequence[Any] = super().get_fieldsets(request, obj)  # type: ignore[misc]
        if obj is None or any(_FIELDS[0] in part["fields"] for _, part in shown):
            return shown
        return [*shown, (_("Chronarch"), {"fields": _FIELDS, "classes": ("wide",)})]

    @admin.display(description=_("newest runs"))  # type: ignore[untyped-decorator]
    def chronarch_history(self, row: Any) -> str:
        """The newest runs as the cluster has them."""
        seen = _seen(row)
        if seen.job is None or not seen.runs:
            return seen.missing() if seen.job is None else NOTHING
        heads = (_("due"), _("outcome"), _("lateness"), _("cause"), _("run"))
        head = format_html_join("", "<th>{}</th>", ((text,) for text in heads))
        lines = format_html_join(
            "", "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>", _lines(seen.runs)
        )
        table: str = format_html(
            '<table class="chronarch-history"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>', head, lines
        )
        return table

    def render_change_form(
        self, request: HttpRequest, context: Dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """See `ModelAdmin.render_change_form`."""
        obj = kwargs.get("obj")
        inherited = getattr(super(), "change_form_template", None)
        context["chronarch_form"] = inherited or "admin/change_form.html"
        if obj is not None and self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            context["chronarch_run_url"] = reverse(self._run_name(), args=(obj.pk,), current_app=_site(self).name)
            context["chronarch_operation_id"] = uuid.uuid4().hex
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)  # type: ignore[misc]
        return response

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """See `ModelAdmin.changeform_view`. Says so where the cluster could not be told of a change, or what of it
        is not as one may expect."""
        _forget()
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)  # type: ignore[misc]
        _warn(request)
        return response

    # What can be done.

    def get_urls(self) -> List[Any]:
        """See `ModelAdmin.get_urls`."""
        name = self._run_name().split(":", 1)[1]
        view = _site(self).admin_view(self.chronarch_run_view)
        urls: List[Any] = super().get_urls()  # type: ignore[misc]
        return [path("<path:object_id>/chronarch/run/", view, name=name), *urls]

    def _run_name(self) -> str:
        return f"admin:{BEAT}_periodictask_chronarch_run"

    def chronarch_run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Runs one task now. The id of the operation comes with the page, so that a second click runs nothing."""
        row = self.get_object(request, unquote(object_id))  # type: ignore[attr-defined]
        if request.method != "POST" or row is None or not self.has_change_permission(request, row):  # type: ignore[attr-defined]
            raise PermissionDenied
        operation_id = request.POST.get("operation_id") or uuid.uuid4().hex
        self._run(request, [(row.name, operation_id[:64])])
        return HttpResponseRedirect(
            reverse(f"admin:{BEAT}_periodictask_change", args=(row.pk,), current_app=_site(self).name)
        )

    def get_actions(self, request: HttpRequest) -> Dict[str, Any]:
        """See `ModelAdmin.get_actions`."""
        found: Dict[str, Any] = super().get_actions(request)  # type: ignore[misc]
        if self.has_change_permission(request):  # type: ignore[attr-defined]
            name = "chronarch_run_now"
            found[name] = (type(self).chronarch_run_now, name, _("Run now, by the cluster"))
        return found

    def chronarch_run_now(self, request: HttpRequest, queryset: Any) -> None:
        """Runs the selected tasks now."""
        names = list(queryset.order_by("pk").values_list("name", flat=True)[: RUNS_MAX + 1])
        if len(names) > RUNS_MAX:
            messages.error(request, _("At most %d tasks can be run at once.") % RUNS_MAX)
            return
        self._run(request, [(name, uuid.uuid4().hex) for name in names])

    def _run(self, request: HttpRequest, wanted: List[Tuple[str, str]]) -> None:
        actor, done = f"django:{request.user.get_username()}", 0
        deadline = time.monotonic() + RUNS_PATIENCE
        for name, operation_id in wanted:
            if time.monotonic() > deadline:
                messages.error(request, _("There was no time left for %s and those after it.") % name)
                break
            try:
                _look.run_now(name, operation_id, actor)
                done += 1
            except NotFound:
                messages.error(request, _("Not in the cluster (yet): %s") % name)
            except (ChronarchError, ValueError, OSError) as error:
                messages.error(request, f"{name}: {error}")
                if not isinstance(error, ChronarchError) or isinstance(error, ConnectionError):
                    break
        if done:
            messages.success(request, _("%d run(s) made.") % done)

    # The actions of django-celery-beat change rows without signals.

    @admin.action(description=_("Enable selected tasks"))  # type: ignore[untyped-decorator]
    def enable_tasks(self, request: HttpRequest, queryset: Any) -> None:
        """As in django-celery-beat, and the cluster is told."""
        self._told(request, queryset, super().enable_tasks)  # type: ignore[misc]

    @admin.action(description=_("Disable selected tasks"))  # type: ignore[untyped-decorator]
    def disable_tasks(self, request: HttpRequest, queryset: Any) -> None:
        """As in django-celery-beat, and the cluster is told."""
        self._told(request, queryset, super().disable_tasks)  # type: ignore[misc]

    @admin.action(description=_("Toggle activity of selected tasks"))  # type: ignore[untyped-decorator]
    def toggle_tasks(self, request: HttpRequest, queryset: Any) -> None:
        """As in django-celery-beat, and the cluster is told."""
        self._told(request, queryset, super().toggle_tasks)  # type: ignore[misc]

    def _told(self, request: HttpRequest, queryset: Any, change: Callable[[HttpRequest, Any], None]) -> None:
        from . import _push

        # Read before: what is selected may depend on what is changed.
        rows = dict(queryset.values_list("pk", "name"))
        _forget()
        change(request, queryset)
        # A row that is changed says when; the count of its runs goes by it.
        queryset.model._default_manager.using(queryset.db).filter(pk__in=list(rows)).update(date_changed=timezone.now())
        _push.changed(rows.values(), queryset.db)
        _warn(request)


_FIELDS = ("chronarch_next_run", "chronarch_outcome", "chronarch_lateness", "chronarch_history")


class _Seen:
    """What the cluster told of a row."""

    def __init__(
        self,
        job: Optional[Job] = None,
        runs: Optional[List[Run]] = None,
        problem: Optional[str] = None,
        is_complete: bool = True,
    ) -> None:
        self.job, self.problem, self.is_complete = job, problem, is_complete
        self.runs = [] if runs is None else runs

    @property
    def last_run(self) -> Optional[Run]:
        return None if self.job is None else self.job.last_run

    def missing(self) -> str:
        if self.problem is not None:
            return str(_("The cluster cannot be reached: %s") % self.problem)
        return str(_("not in the cluster")) if self.is_complete else NOTHING


def _seen(row: Any) -> _Seen:
    """Asked for where the list has not done so already: on the page of one task."""
    if not hasattr(row, "chronarch_seen"):
        try:
            row.chronarch_seen = _Seen(*_look.history_of(row.name))
        except (_look.Silent, ValueError, OSError) as error:
            row.chronarch_seen = _Seen(problem=str(error))
    seen: _Seen = row.chronarch_seen
    return seen


def _lines(runs: Sequence[Run]) -> List[Tuple[Any, ...]]:
    lines = []
    for run in runs:
        late = _look.lateness(run)
        due = NOTHING if run.scheduled_at is None else _instant(run.scheduled_at)
        lines.append((due, _look.outcome(run), NOTHING if late is None else _look.spoken(late), run.cause, run.run_id))
    return lines


def _instant(at: datetime.datetime) -> str:
    # With the second, which the formats of most languages leave out.
    return str(date_format(timezone.template_localtime(at), "Y-m-d H:i:s"))


def _forget() -> None:
    from . import _push

    _push.take_problem()
    _push.take_notes()


def _warn(request: HttpRequest) -> None:
    """Tells what became of the pushes since `_forget`."""
    from . import _push

    problem = _push.take_problem()
    for note in _push.take_notes():
        messages.warning(request, _("The cluster: %s") % note)
    if problem is not None:
        messages.warning(
            request, _("Saved, but the cluster could not be told; it will be when it is compared next: %s") % problem
        )


def _site(model_admin: Any) -> Any:
    return model_admin.admin_site


def extend(site: Any = None) -> None:
    """Puts the mixin before the class that a site has for PeriodicTask, if it has one."""
    from django_celery_beat.models import PeriodicTask

    site = admin.site if site is None else site
    if not site.is_registered(PeriodicTask):
        return
    base = type(site._registry[PeriodicTask])
    if not issubclass(base, PeriodicTaskMixin):
        site.unregister(PeriodicTask)
        site.register(PeriodicTask, type(base.__name__, (PeriodicTaskMixin, base), {"__module__": base.__module__}))


if apps.is_installed(BEAT):
    # Registers its classes, if it has not done so by now.
    import django_celery_beat.admin  # noqa: F401

    extend()
