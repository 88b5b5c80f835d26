"""When a schedule is due: five cron fields in a time zone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from fitserve.errors import BadInput
from fitserve.wire.automations import On


def check(on: On) -> None:
    """Raise BadInput for a text that is no schedule, an unknown time zone, or a schedule that is never due."""
    if on.schedule is None:
        return
    try:
        zone = ZoneInfo(on.timezone)
    except (ValueError, OSError, KeyError) as error:
        raise BadInput("There is no such time zone.", pointer="/on/timezone", received=on.timezone) from error
    try:
        if len(on.schedule.split()) != 5:
            raise CronSimError("five fields")
        next(CronSim(on.schedule, datetime.now(zone)))
    except (CronSimError, StopIteration) as error:
        raise BadInput(
            "This is not a schedule.",
            pointer="/on/schedule",
            received=on.schedule,
            expected="five cron fields: minute, hour, day of the month, month, day of the week",
        ) from error


def next_after(on: On, at: datetime) -> datetime | None:
    """Return when a schedule is next due after a time; None without a schedule."""
    return None if on.schedule is None else next(times(on, at))


def times(on: On, after: datetime, until: datetime | None = None) -> Iterator[datetime]:
    """Yield the times of a schedule after one time, up to another."""
    assert on.schedule is not None
    moments = (moment.astimezone(UTC) for moment in CronSim(on.schedule, after.astimezone(ZoneInfo(on.timezone))))
    return moments if until is None else takewhile(lambda moment: moment <= until, moments)
