"""When a schedule fires next, as far as anybody plans ahead."""

from datetime import UTC, datetime

import msgspec

from tidemill.domain.schedule import Fire, ScheduleSpec, compile_schedule

_HORIZON = datetime(2200, 1, 1, tzinfo=UTC)  # zones are worked out year by year: it bounds the cost


def preview_schedule(spec: ScheduleSpec, after: datetime, count: int) -> list[Fire]:
    """The next `count` fire times after `after`; fewer where the horizon comes first.

    Raises InvalidInput where the schedule is wrong. May take a second: not for an event loop.
    """
    end = min(spec.end_at or _HORIZON, _HORIZON)
    return compile_schedule(msgspec.structs.replace(spec, end_at=end)).preview(after, count)
