"""Clients of the API in this process."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from in_process import InProcess


@pytest.fixture(scope="session")
def application() -> InProcess:
    """The application; it takes long to put together."""
    return InProcess()


@pytest.fixture
def process(application: InProcess) -> InProcess:
    """The application on an empty database."""
    application.empty()
    return application


@pytest.fixture
async def api(process: InProcess) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of that application, at the API's base."""
    async with process.client() as found:
        yield found
