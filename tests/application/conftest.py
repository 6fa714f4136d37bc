import pytest

from tidemill.testing.inline import InlineScheduler


@pytest.fixture(params=[False, True], ids=["unprepared", "prepared"])
def scheduler(request: pytest.FixtureRequest) -> InlineScheduler:
    """The use cases on a database of their own, at the beginning of 2026."""
    return InlineScheduler(prepares=request.param)
