"""Results that are too large for the row of their run, one arrow of the story at a time."""

from typing import Any

import msgspec
import pytest

from tidemill.application.fetch_artifact import fetch_chunk
from tidemill.application.prune_history import prune_history
from tidemill.application.recover_lost_runs import recover_after_restart
from tidemill.application.retry_flow_run import retry_flow_run
from tidemill.application.store_artifact import store_chunk
from tidemill.domain.artifact import CHUNK_BYTES, ArtifactId, Reference, numbered
from tidemill.domain.events import EventType
from tidemill.domain.outcome import failure, success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import Dependency, MapOver, Task
from tidemill.domain.task_run import LeasedRun, TaskRun
from tidemill.errors import Conflict, InvalidInput
from tidemill.foundation.control_plane import ArtifactChunk
from tidemill.testing.inline import LEASE, InlineScheduler

CONTENT = bytes(range(256)) * 2_500  # of three pieces


@pytest.fixture
def worker(scheduler: InlineScheduler) -> str:
    return scheduler.register(max_concurrent_tasks=100)


def pieces_of(held: LeasedRun, content: bytes = CONTENT) -> list[ArtifactChunk]:
    """What is sent of a result of this attempt."""
    size = len(content)
    return [
        ArtifactChunk(
            held.id,
            held.fence,
            size,
            number,
            content[number * CHUNK_BYTES : number * CHUNK_BYTES + length],
        )
        for number, length in numbered(size)
    ]


def kept(scheduler: InlineScheduler, held: LeasedRun, **beside: Any) -> dict[str, Any]:
    """The reference to the large result of this attempt, which is stored."""
    for piece in pieces_of(held):
        assert scheduler.do(store_chunk, piece)
    return Reference(ArtifactId(held.id, held.fence), len(CONTENT)).beside(beside)


def content(scheduler: InlineScheduler, id: ArtifactId) -> list[bytes | None]:
    """What is stored of it, as far as it goes."""
    return [
        scheduler.look(lambda reads, number=number: reads.artifact_chunk(id, number))  # type: ignore[misc]
        for number in range(3)
    ]


def after(task: Task) -> list[Dependency]:
    return [Dependency(f"name:{task.definition.name}", "succeeded")]


def run_of(scheduler: InlineScheduler, task: Task) -> TaskRun:
    """The newest run of a task."""
    return scheduler.runs(task)[-1]


@pytest.mark.usefixtures("worker")
def test_a_dependent_is_given_a_reference_and_may_fetch_what_it_names(
    scheduler: InlineScheduler,
) -> None:
    first = scheduler.create("first")
    second = scheduler.create("second", dependencies=after(first))
    held = scheduler.start(scheduler.trigger(first))
    reference = kept(scheduler, held, status=200)
    scheduler.record(held, success(reference))
    reading = scheduler.start(run_of(scheduler, second))

    assert reading.parameters == {"upstream": {"first": reference}}
    assert reference == {
        "status": 200, "$artifact": {"id": f"{held.id}-{held.fence}", "bytes": len(CONTENT)},
    }  # fmt: skip
    id = ArtifactId(held.id, held.fence)
    fetched = [
        scheduler.do(fetch_chunk, reading.id, reading.fence, id, number) for number in range(3)
    ]
    assert b"".join(fetched) == CONTENT


@pytest.mark.usefixtures("worker")
def test_what_is_stored_once_more_changes_nothing(scheduler: InlineScheduler) -> None:
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    kept(scheduler, held)
    for piece in pieces_of(held):
        other = msgspec.structs.replace(piece, content=bytes(len(piece.content)))
        assert scheduler.do(store_chunk, other)

    assert b"".join(filter(None, content(scheduler, ArtifactId(held.id, held.fence)))) == CONTENT


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "wrong",
    [{"number": 3}, {"number": 2}, {"size": 10}, {"size": 0}, {"content": b""}],
    ids=str,
)
def test_a_piece_that_is_not_as_long_as_it_must_be_is_refused(
    scheduler: InlineScheduler, wrong: dict[str, Any]
) -> None:
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    piece = msgspec.structs.replace(pieces_of(held)[0], **wrong)

    with pytest.raises(InvalidInput):
        scheduler.do(store_chunk, piece)


@pytest.mark.usefixtures("worker")
def test_an_attempt_has_one_large_result(scheduler: InlineScheduler) -> None:
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    kept(scheduler, held)

    with pytest.raises(Conflict, match="bytes"):
        scheduler.do(store_chunk, pieces_of(held, b"another")[0])


@pytest.mark.usefixtures("worker")
def test_an_attempt_that_was_lost_stores_nothing_more(scheduler: InlineScheduler) -> None:
    run = scheduler.trigger(scheduler.create())
    old = scheduler.start(run)
    first, second, _ = pieces_of(old)
    assert scheduler.do(store_chunk, first)
    scheduler.do(recover_after_restart)
    scheduler.register("worker-2")
    assert not scheduler.do(store_chunk, second)
    new = scheduler.start(scheduler.run(run.id), "worker-2")
    assert not scheduler.do(store_chunk, second)
    scheduler.record(new, success(kept(scheduler, new)))

    refused = [e for e in scheduler.events(new) if e.type is EventType.STALE_WRITE_REFUSED]
    assert [each.data["fences"] for each in refused] == [[old.fence], [old.fence]]
    assert content(scheduler, ArtifactId(run.id, old.fence)) == [first.content, None, None]
    assert None not in content(scheduler, ArtifactId(run.id, new.fence))
    assert scheduler.run(run.id).status is RunStatus.SUCCEEDED
    scheduler.pass_time(60)
    assert scheduler.do(prune_history, LEASE, 10) == 1
    for fence in (old.fence, new.fence):
        assert content(scheduler, ArtifactId(run.id, fence)) == [None] * 3


@pytest.mark.usefixtures("worker")
def test_nothing_is_fetched_for_another_namespace_or_by_whoever_holds_nothing(
    scheduler: InlineScheduler,
) -> None:
    held = scheduler.start(scheduler.trigger(scheduler.create("a")))
    kept(scheduler, held)
    elsewhere = scheduler.create("b", namespace="team")
    foreign = scheduler.start(scheduler.trigger(elsewhere, namespace="team"))
    id = ArtifactId(held.id, held.fence)

    for run_id, fence in ((foreign.id, foreign.fence), (held.id, held.fence + 1), (4_711, 1)):
        with pytest.raises(Conflict):
            scheduler.do(fetch_chunk, run_id, fence, id, 0)
    scheduler.record(held)
    with pytest.raises(Conflict):
        scheduler.do(fetch_chunk, held.id, held.fence, id, 0)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("field", [None, "files"])
def test_nothing_is_mapped_over_a_result_that_is_only_referred_to(
    scheduler: InlineScheduler, field: str | None
) -> None:
    split = scheduler.create("split")
    over = MapOver("name:split", field=field)
    process = scheduler.create("process", dependencies=after(split), map_over=over)
    held = scheduler.start(scheduler.trigger(split))
    scheduler.record(held, success(kept(scheduler, held)))

    run = run_of(scheduler, process)
    assert (run.status, run.reason) == (RunStatus.CANCELLED, "not_a_list")
    assert run.error_message is not None
    assert f"an artifact of {len(CONTENT)} bytes" in run.error_message


@pytest.mark.usefixtures("worker")
def test_what_a_flow_run_carries_over_can_still_be_fetched(scheduler: InlineScheduler) -> None:
    first = scheduler.create("first")
    second = scheduler.create("second", dependencies=after(first))
    root = scheduler.trigger(first)
    held = scheduler.start(root)
    reference = kept(scheduler, held)
    scheduler.record(held, success(reference))
    failed = scheduler.start(run_of(scheduler, second))
    scheduler.record(failed, failure("exit_code", "exit code 1", exit_code=1))
    assert root.flow_run_id is not None
    old = scheduler.look(lambda reads: reads.flow_run(root.flow_run_id or ""))
    assert old is not None
    scheduler.do(retry_flow_run, old, "then")
    scheduler.pass_time(60)
    scheduler.do(prune_history, LEASE, 10)
    again = scheduler.start(run_of(scheduler, second))

    assert again.id != failed.id
    assert again.parameters["upstream"] == {"first": reference}
    id = ArtifactId(held.id, held.fence)
    assert scheduler.do(fetch_chunk, again.id, again.fence, id, 0) == CONTENT[:CHUNK_BYTES]


@pytest.mark.usefixtures("worker")
def test_an_expression_sees_the_reference(scheduler: InlineScheduler) -> None:
    first = scheduler.create("first")
    rule = "upstream.first.result.status == 200"
    second = scheduler.create("second", dependencies=after(first), trigger_rule=rule)
    held = scheduler.start(scheduler.trigger(first))
    scheduler.record(held, success(kept(scheduler, held, status=200)))

    assert run_of(scheduler, second).status is RunStatus.PENDING
