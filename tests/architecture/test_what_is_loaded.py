"""A process loads what it is (docs/adr/0039)."""

import subprocess
import sys

import pytest

_WEB = {"fastapi", "starlette", "uvicorn"}
_BROKERS = {"redis", "aio_pika"}
_MIGRATIONS = {"alembic", "sqlalchemy.orm"}
_ROLES = "tidemill.container.roles."
_GROUNDS = "tidemill.container.grounds."


@pytest.mark.parametrize(
    ("modules", "needed", "useless"),
    [
        (
            (_ROLES + "all_in_one", _GROUNDS + "embedded"),
            {"sqlalchemy", "fastapi"},
            _BROKERS | _MIGRATIONS | {"asyncpg"},
        ),
        ((_ROLES + "api",), {"asyncpg", "fastapi"}, _BROKERS | _MIGRATIONS),
        ((_ROLES + "dispatcher",), {"asyncpg"}, _BROKERS | _MIGRATIONS | _WEB),
        ((_ROLES + "worker",), {"asyncpg"}, _BROKERS | _MIGRATIONS | _WEB),
        (
            (_ROLES + "remote_worker",),
            {"httpx2"},
            _BROKERS | _MIGRATIONS | _WEB | {"sqlalchemy", "asyncpg"},
        ),
    ],
)
def test_a_process_loads_nothing_that_it_is_not(
    modules: tuple[str, ...], needed: set[str], useless: set[str]
) -> None:
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"

    loaded = set(
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout.split()
    )

    assert needed <= loaded
    assert not loaded & useless
