"""What the commands write for people: data to stdout, all else to stderr."""

import dataclasses
from collections import Counter
from typing import Any, Dict, Optional, Sequence

import click

from .._text import format_instant
from . import ends, shadow
from . import sync as syncing

# Names that a message has.
_NAMED_MAX = 10
# Of either side of a change that is shown.
_SIDE_CHARS_MAX = 400


def tell(planned: syncing.Plan) -> None:
    """Writes the plan: changes to stdout, what is not carried to stderr."""
    times = _tell_changes(planned)
    # What many have in common would hide what one of them has for itself.
    for note, count in times.items():
        if count > 1:
            click.echo(f"note, of {count} jobs: {note}")
    for step in planned.steps:
        if step.paused_by is not None:
            click.echo(f"  {step.name}: stays paused: {step.paused_by}")
    for problem in planned.problems:
        click.echo(f"! {problem.name} ({problem.source}): {problem.reason}", err=True)
    if planned.idle:
        click.echo(f"  disabled, and not carried: {few([one.name for one in planned.idle])}", err=True)
    for name in planned.orphans:
        click.echo(f"  {name}: its entry is gone; --prune deletes it", err=True)
    counts = [(planned.count("+"), "to add"), (planned.count("~"), "to change"), (planned.count("-"), "to delete")]
    text = ", ".join(f"{count} {what}" for count, what in [*counts, (planned.count("="), "as they are")])
    click.echo(f"{text}, {len(planned.problems)} not carried", err=True)


def _tell_changes(planned: syncing.Plan) -> "Counter[str]":
    """Writes what changes, and returns how many jobs have each note."""
    made = [step.name for step in planned.changes if step.sign != "-"]
    times = Counter(note for name in made for note in planned.notes.get(name, ()))
    for step in planned.changes:
        click.echo(_line(step))
        for change in step.fields if step.sign == "~" else ():
            click.echo(f"    {change.path}: {_side(change.from_)} -> {_side(change.to)}")
        for note in planned.notes.get(step.name, ()) if step.sign != "-" else ():
            if times[note] == 1:
                click.echo(f"    note: {note}")
    return times


def few(names: Sequence[str]) -> str:
    """Names for people, and not thousands of them."""
    return ", ".join(names[:_NAMED_MAX]) + (f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else "")


def as_json_of(report: shadow.Report) -> Dict[str, Any]:
    return {
        "from": format_instant(report.begin),
        "to": format_instant(report.end),
        "workers": report.workers,
        "told_by_publisher": report.told_by_publisher,
        "entries": [dataclasses.asdict(line) for line in report.lines],
        "not_compared": report.not_compared,
        "gaps": [format_instant(at) for at in report.gaps],
    }


def tell_shadow(report: shadow.Report) -> None:
    told = "and the publisher" if report.told_by_publisher else "and no publisher"
    click.echo(
        f"{format_instant(report.begin)} to {format_instant(report.end)}; "
        f"{report.workers} Celery workers {told} told of messages"
    )
    for line in report.lines:
        sides = [f"beat {_counted(line.beat)}"]
        sides += [f"cluster {_counted(line.cluster)}"] if line.cluster is not None else []
        click.echo(f"{', '.join(line.names)}: {line.due} due; {'; '.join(sides)}")
        for difference in line.differences:
            click.echo(f"    {difference}")
    for name, reason in report.not_compared.items():
        click.echo(f"! {name}: not compared: {reason}", err=True)


def _counted(count: shadow.Count) -> str:
    told = [f"{number} {name.replace('_', ' ')}" for name, number in dataclasses.asdict(count).items() if number]
    return ", ".join(told) or "0"


def tell_ends(found: ends.Found, is_only_look: bool) -> None:
    for run_id, task_id, state in found.ended:
        click.echo(f"{run_id}  {task_id}  {state}")
    for run_id, task_id, why in found.unjudged:
        click.echo(f"! {run_id}  {task_id}: how it ended cannot be told: {why}", err=True)
    if is_only_look or found.ended:
        click.echo(
            f"{found.awaited} tasks are awaited, {len(found.ended)} had ended, "
            f"{found.unknown} are unknown to the backend",
            err=True,
        )


def _line(step: syncing.Step) -> str:
    of = "" if step.entry is None else f' "{step.entry.name}"'
    paused = {syncing.HELD: "held until adopt", syncing.DISABLED: "paused, for it is disabled there"}
    ends = [paused[step.pause]] if step.pause else []
    ends += ["resumed, for it is enabled there"] if step.resume else []
    return f"{step.sign} {step.name}  ({step.source}{of})" + "".join(f": {end}" for end in ends)


def _side(value: Optional[str]) -> str:
    if value is None:
        return "(not set)"
    # Messages that the app has built are long.
    return value if len(value) <= _SIDE_CHARS_MAX else f"{value[:_SIDE_CHARS_MAX]}…"
