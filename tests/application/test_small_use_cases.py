"""Small use cases: answers kept under a key, retries by hand, output, workers, history."""

from datetime import timedelta

import pytest

from tidemill.application.answer_once import KeyedCall, answer_once
from tidemill.application.manage_workers import (
    drain_worker,
    note_heartbeat,
    remove_worker,
    sign_off_worker,
)
from tidemill.application.prune_history import prune_history
from tidemill.application.retry_runs import retry_runs
from tidemill.application.store_output import store_output
from tidemill.domain.outcome import failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task_run import Trigger
from tidemill.domain.worker import WorkerStatus
from tidemill.errors import Conflict, KeyReused, NotFound
from tidemill.foundation.control_plane import OutputReport
from tidemill.foundation.listing import PageRequest, WorkerFilter
from tidemill.foundation.store import AnswerKey, LogLines
from tidemill.testing.inline import InlineScheduler


def call(scope: str, request: bytes) -> KeyedCall:
    return KeyedCall(AnswerKey(scope, "key"), request)


def test_a_call_is_carried_out_once_for_its_key_within_a_day(scheduler: InlineScheduler) -> None:
    carried_out: list[int] = []

    def act(_: object) -> int:
        carried_out.append(1)
        return len(carried_out)

    for _ in range(2):
        assert scheduler.do(answer_once, call("scope", b"body"), act) == 1
    assert scheduler.do(answer_once, call("other", b"body"), act) == 2
    with pytest.raises(KeyReused):
        scheduler.do(answer_once, call("scope", b"another body"), act)
    scheduler.pass_time(86_400)
    assert scheduler.do(answer_once, call("scope", b"another body"), act) == 3


def test_a_call_that_failed_keeps_no_answer(scheduler: InlineScheduler) -> None:
    def fail(_: object) -> None:
        raise NotFound("task", 1)

    with pytest.raises(NotFound):
        scheduler.do(answer_once, call("scope", b"body"), fail)
    assert scheduler.do(answer_once, call("scope", b"body"), lambda _: "now") == "now"


def test_a_finished_run_is_tried_once_more_as_a_run_that_is_linked_to_it(
    scheduler: InlineScheduler,
) -> None:
    scheduler.register()
    task = scheduler.create()
    held = scheduler.start(scheduler.trigger(task, parameters={"n": 1}))
    assert scheduler.do(retry_runs, [scheduler.run(held)]) == {}  # it has not ended
    scheduler.record(held, failure("exit_code", "exit code 1", exit_code=1))
    scheduler.pass_time(5)
    again = scheduler.do(retry_runs, [scheduler.run(held)])[held.id]

    assert (again.retry_of, again.trigger, again.parameters) == (held.id, Trigger.RETRY, {"n": 1})
    assert again.scheduled_for == held.scheduled_for
    assert scheduler.run(held).status is RunStatus.FAILED


def test_output_of_an_old_fence_is_left_out(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    lines = [LogLines(held.id, 1, 1, 1, "stdout", scheduler.clock.now(), "one\n")]
    stale = OutputReport(held.id, held.fence - 1, lines, {"percent": 9})
    fresh = OutputReport(held.id, held.fence, lines, {"percent": 5}, {"page": 2})

    assert scheduler.do(store_output, [stale, fresh]) == 1
    assert scheduler.look(lambda reads: reads.run_logs(held.id, 0, 10)) == lines
    stored = scheduler.run(held)
    assert (stored.progress, stored.checkpoint) == ({"percent": 5}, {"page": 2})


def test_a_worker_leaves_only_when_it_holds_nothing(scheduler: InlineScheduler) -> None:
    scheduler.register()
    held = scheduler.start(scheduler.trigger(scheduler.create()))
    assert scheduler.do(drain_worker, "worker-1").status is WorkerStatus.DRAINING
    with pytest.raises(Conflict):
        scheduler.do(sign_off_worker, "worker-1")
    scheduler.record(held)
    assert scheduler.do(sign_off_worker, "worker-1").status is WorkerStatus.OFFLINE
    with pytest.raises(Conflict, match="register again"):
        scheduler.do(note_heartbeat, "worker-1", 0)
    scheduler.do(remove_worker, "worker-1")

    with pytest.raises(NotFound):
        scheduler.do(drain_worker, "worker-1")


def test_history_goes_when_its_time_is_up_a_little_at_a_time(scheduler: InlineScheduler) -> None:
    scheduler.register()
    task = scheduler.create()
    for _ in range(3):
        scheduler.record(scheduler.start(scheduler.trigger(task)))
    scheduler.pass_time(60)
    scheduler.register("worker-2")
    young = scheduler.trigger(task)
    keep = timedelta(seconds=60)

    assert [scheduler.do(prune_history, keep, 2) for _ in range(3)] == [2, 1, 0]
    assert scheduler.runs() == [scheduler.run(young)]


def test_workers_that_are_gone_go_when_their_time_is_up(scheduler: InlineScheduler) -> None:
    for worker_id in ("left", "left-lately", "here"):
        scheduler.register(worker_id)
    scheduler.do(sign_off_worker, "left")
    scheduler.pass_time(61)
    scheduler.do(sign_off_worker, "left-lately")
    scheduler.do(prune_history, timedelta(seconds=60), 10)

    page = scheduler.look(lambda r: r.list_workers(WorkerFilter(), PageRequest("id", 10)))
    assert [worker.id for worker in page.items] == ["here", "left-lately"]
