import pytest

from tidemill.testing.inline import InlineScheduler


@pytest.fixture
def scheduler() -> InlineScheduler:
    """The use cases on a database of their own, at the beginning of 2026."""
    return InlineScheduler()
