"""What a run returned, as it is asked for, and the pieces in which a worker sends it."""

from base64 import b64encode
from functools import partial
from typing import Any

import httpx2
import pytest
from in_process import InProcess

from tidemill.application.claim_runs import claim_runs
from tidemill.application.define_task import create_task
from tidemill.application.dispatch_ready_runs import dispatch_ready_runs
from tidemill.application.manage_workers import register_worker
from tidemill.application.record_outcomes import record_outcomes
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.artifact import CHUNK_BYTES
from tidemill.domain.outcome import success
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.task_run import LeasedRun
from tidemill.foundation.control_plane import AttemptReport
from tidemill.foundation.store import Transaction
from tidemill.testing import builders
from tidemill.testing.inline import LEASE

CONTENT = b'"' + b"x" * (2 * CHUNK_BYTES) + b'"'
PIECES = [CONTENT[at : at + CHUNK_BYTES] for at in range(0, len(CONTENT), CHUNK_BYTES)]


def _start(transaction: Transaction) -> LeasedRun:
    create_task(transaction, builders.definition(), lambda _: [])
    register_worker(transaction, builders.worker("w-1"))
    return _start_another(transaction)


def _start_another(transaction: Transaction) -> LeasedRun:
    [run] = trigger_runs(transaction, [TriggerRequest(task=1)])
    dispatch_ready_runs(transaction, 10, built_in_strategies())
    [claimed] = claim_runs(transaction, "w-1", [run.id], LEASE)
    return claimed.run


@pytest.fixture
def held(process: InProcess) -> LeasedRun:
    """A run that the worker `w-1` has claimed."""
    return process.store.transact_now(_start)


def end(process: InProcess, held: LeasedRun, result: Any) -> None:
    report = AttemptReport(held.id, held.fence, "itself", success(result), 0)
    process.store.transact_now(partial(record_outcomes, reports=[report]))


def at(held: LeasedRun, number: int) -> str:
    return f"/workers/w-1/runs/{held.id}/artifact/{number}"


def body(held: LeasedRun, number: int, **changes: Any) -> dict[str, Any]:
    said = {"fence": held.fence, "bytes": len(CONTENT)}
    return said | {"content": b64encode(PIECES[number]).decode()} | changes


async def stored(api: httpx2.AsyncClient, held: LeasedRun) -> dict[str, Any]:
    """The reference to a large result, all of which was sent."""
    for number in range(len(PIECES)):
        answer = await api.put(at(held, number), json=body(held, number))
        assert (answer.status_code, answer.json()) == (200, {"accepted": 1, "stale": 0})
    return {"$artifact": {"id": f"{held.id}-{held.fence}", "bytes": len(CONTENT)}}


@pytest.mark.parametrize("result", [None, {"n": [1, "ü"]}, {"$artifact": {"id": "1-7"}}])
async def test_a_small_result_is_answered_as_it_is(
    api: httpx2.AsyncClient, process: InProcess, held: LeasedRun, result: Any
) -> None:
    end(process, held, result)
    answer = await api.get(f"/runs/{held.id}/result")

    assert (answer.status_code, answer.json()) == (200, result)


async def test_a_large_result_is_shown_as_a_reference_and_answered_whole(
    api: httpx2.AsyncClient, process: InProcess, held: LeasedRun
) -> None:
    reference = await stored(api, held)
    end(process, held, reference)
    answer = await api.get(f"/runs/{held.id}/result")

    assert (await api.get(f"/runs/{held.id}")).json()["result"] == reference
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Length"] == str(len(CONTENT))


async def test_what_only_looks_like_a_reference_is_what_the_run_returned(
    api: httpx2.AsyncClient, process: InProcess, held: LeasedRun
) -> None:
    forged = {"$artifact": {"id": f"{held.id}-{held.fence}", "bytes": 3}}
    end(process, held, forged)

    assert (await api.get(f"/runs/{held.id}/result")).json() == forged


async def test_a_reference_to_what_another_run_returned_is_a_result_of_its_own(
    api: httpx2.AsyncClient, process: InProcess, held: LeasedRun
) -> None:
    reference = await stored(api, held)
    end(process, held, reference)
    other = process.store.transact_now(_start_another)
    end(process, other, reference)

    assert (await api.get(f"/runs/{other.id}/result")).json() == reference


async def test_a_large_result_of_whom_a_run_called_is_its_own(
    api: httpx2.AsyncClient, process: InProcess, held: LeasedRun
) -> None:
    caller, called = process.store.transact_now(_call)
    reference = await stored(api, called)
    end(process, called, reference)

    assert (await api.get(f"/runs/{caller}")).json()["result"] == reference
    assert (await api.get(f"/runs/{caller}/result")).content == CONTENT


def _call(transaction: Transaction) -> tuple[int, LeasedRun]:
    """The id of a run that calls the first task, and the run that it called."""
    wanted = builders.definition("caller", executor="task", command="name:a-task", arguments={})
    task = create_task(transaction, wanted, lambda _: [])
    [caller] = trigger_runs(transaction, [TriggerRequest(task=task.id)])
    dispatch_ready_runs(transaction, 10, built_in_strategies())
    [message] = dispatch_ready_runs(transaction, 10, built_in_strategies()).messages
    [claimed] = claim_runs(transaction, "w-1", message.run_ids, LEASE)
    return caller.id, claimed.run


async def test_a_run_that_goes_on_has_no_result_yet(
    api: httpx2.AsyncClient, held: LeasedRun
) -> None:
    answer = await api.get(f"/runs/{held.id}/result")

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"content": "no base64"}, 422, "is not base64"),
        ({"content": "AAAA"}, 422, "not 3"),
        ({"content": "A" * 400_000}, 422, "at most"),
        ({"bytes": 2**26 + 1}, 413, f"at most {2**26} bytes"),
        ({"bytes": 0}, 422, "greater"),
        ({"fence": 0}, 422, "greater"),
    ],
)
async def test_a_piece_that_cannot_be_taken_is_refused(
    api: httpx2.AsyncClient,
    held: LeasedRun,
    changes: dict[str, Any],
    status: int,
    said: str,
) -> None:
    answer = await api.put(at(held, 0), json=body(held, 0, **changes))

    assert answer.status_code == status
    assert said in answer.text


async def test_a_piece_of_an_old_fence_is_stale(api: httpx2.AsyncClient, held: LeasedRun) -> None:
    answer = await api.put(at(held, 0), json=body(held, 0, fence=held.fence + 1))

    assert answer.json() == {"accepted": 0, "stale": 1}


async def test_a_piece_is_answered_to_the_worker_of_a_run_that_is_held(
    api: httpx2.AsyncClient, held: LeasedRun
) -> None:
    await stored(api, held)
    place = f"/workers/w-1/runs/{held.id}/artifacts/{held.id}-{held.fence}"
    found = await api.get(f"{place}/1?fence={held.fence}")
    statuses = [
        (await api.get(path)).status_code
        for path in (
            f"{place}/3?fence={held.fence}",
            f"{place}/0?fence={held.fence + 1}",
            f"{place}x/0?fence={held.fence}",
            f"{place.replace('w-1', 'nobody')}/0?fence={held.fence}",
            f"{place}/0",
        )
    ]

    assert (found.status_code, found.content) == (200, PIECES[1])
    assert found.headers["Content-Type"] == "application/octet-stream"
    assert statuses == [409, 409, 404, 404, 400]
