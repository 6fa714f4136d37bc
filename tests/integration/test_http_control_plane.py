"""A worker's way through the API, over a network that loses what it is told to lose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import httpx2
import msgspec
import pytest

from tidemill.api.app import create_app
from tidemill.api.context import ApiContext
from tidemill.application.recover_lost_runs import recover_lost_runs
from tidemill.domain.artifact import CHUNK_BYTES, ArtifactId
from tidemill.domain.outcome import success
from tidemill.domain.run_status import RunStatus
from tidemill.domain.strategies.registry import built_in_strategies
from tidemill.domain.worker import Worker
from tidemill.errors import LimitExceeded, Unavailable
from tidemill.foundation.control_plane import ArtifactChunk, AttemptReport, ControlPlane
from tidemill.foundation.queue import RunMessage
from tidemill.foundation.slots import Slots
from tidemill.foundation.store import Store
from tidemill.infrastructure.database.schema import empty_schema
from tidemill.infrastructure.database.sqlite import InlineSqliteStore
from tidemill.infrastructure.http_control_plane import HttpControlPlane
from tidemill.infrastructure.memory_wakeups import MemoryWakeups
from tidemill.infrastructure.queues.memory import MemoryQueue, MemorySubscription
from tidemill.observability.health import Health
from tidemill.testing.builders import worker
from tidemill.testing.clock import FakeClock, run_in_virtual_time
from tidemill.testing.conformance.control_plane_suite import (
    LEASE,
    Begun,
    artifact_of,
    chunk,
    ending,
    output,
    ready_runs,
)

SMALL_BODY = 4_096


class Network(httpx2.AsyncBaseTransport):
    """Carries requests to an application of this process, and loses some."""

    def __init__(self, place: "Place") -> None:
        self._place = place
        self.lost: list[str] = []
        self.statuses: list[int] = []
        self._to_lose: list[tuple[str, str]] = []
        self._last: httpx2.Response | None = None
        self._comes_again = False
        self._answers_instead: list[int] = []

    def answer_instead(self, status: int) -> None:
        """The next request meets something on the way that answers it, and never arrives."""
        self._answers_instead.append(status)

    def lose(self, what: str, path: str) -> None:
        """The next `request` to this path, or its `answer`."""
        self._to_lose.append((what, path))

    def repeat_answer(self) -> None:
        """The next request meets the answer to the one before, as if that had been sent twice."""
        self._comes_again = True

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        is_lost = [each for each in self._to_lose if request.url.path.endswith(each[1])][:1]
        for each in is_lost:
            self._to_lose.remove(each)
            self.lost.append(each[1])
        if is_lost and is_lost[0][0] == "request":
            raise httpx2.ConnectTimeout("nobody hears")
        if self._answers_instead:
            return httpx2.Response(self._answers_instead.pop(), text="no page here")
        transport = httpx2.ASGITransport(app=self._place.application)
        response = await transport.handle_async_request(request)
        await response.aread()
        self._last, last = response, self._last
        if self._comes_again and last is not None:
            self._comes_again = False
            return httpx2.Response(last.status_code, headers=last.headers, content=last.content)
        self.statuses.append(response.status_code)
        if is_lost:
            raise httpx2.ReadError("the connection was reset")
        return response


class Silence(httpx2.AsyncBaseTransport):
    """Leads to a server that neither answers nor hangs up, whatever time the client allows."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody answers")


class Place:
    """A server's API, and a worker's way to it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store: Store = InlineSqliteStore(self.clock, MemoryWakeups(), schema=empty_schema())
        self.queue = MemoryQueue()
        self.restart_api()
        self.network = Network(self)
        self.http = httpx2.AsyncClient(transport=self.network, base_url="http://server")
        self.way: ControlPlane = HttpControlPlane(self.http, self.clock, LEASE)

    def restart_api(self, max_body_bytes: int = 1_048_576) -> None:
        """From now on another process answers, on the same database and queue."""
        self.context = ApiContext(
            store=self.store,
            wakeups=MemoryWakeups(),
            queue=self.queue,
            clock=self.clock,
            check_task=lambda _: (),
            strategies=built_in_strategies(),
            health=Health(self.clock),
            render_metrics=lambda _: b"",
            version="0",
            max_body_bytes=max_body_bytes,
            max_artifact_bytes=2**26,
            allowed_hosts=None,
        )
        self.application = create_app(self.context)

    async def register(self) -> Worker:
        """Let the worker in."""
        return await self.way.register(worker("a-worker", max_concurrent_tasks=8))

    async def claim(self) -> Begun:
        """What one claim came to."""
        begun = Begun()
        await self.way.claim(Slots(8), begun)
        return begun

    async def post(self, known: Worker, verb: str, body: Any) -> Any:
        """What the API answers to a call of the worker."""
        answer = await self.http.post(f"/api/v1/workers/{known.id}/{verb}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def row(self, run_id: int) -> Any:
        """The run as it stands."""
        return await self.store.read(lambda reads: reads.run(run_id))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    found = Place()
    yield found
    await found.way.close()


async def test_a_claim_whose_answer_is_lost_is_begun_by_the_next(place: Place) -> None:
    await place.register()
    runs = await ready_runs(place.store, place.queue, count=2)
    place.network.lose("answer", "/claim")
    with pytest.raises(Unavailable, match="reset"):
        await place.claim()
    place.clock.advance(timedelta(seconds=5))
    asked_at = place.clock.monotonic()
    begun = await place.claim()

    assert place.network.lost == ["/claim"]
    assert begun.ids == [run.id for run in runs]
    assert begun.asked_at == [asked_at, asked_at]
    rows = [await place.row(run.id) for run in runs]
    assert [(row.attempt, row.fence) for row in rows] == [(1, 1), (1, 1)]
    assert [row.lease_expires_at for row in rows] == [place.clock.now() + LEASE] * 2
    [late] = await ready_runs(place.store, place.queue)
    assert (await place.claim()).ids == [late.id]


async def test_a_claim_whose_request_is_lost_takes_nothing_and_loses_nothing(place: Place) -> None:
    await place.register()
    [run] = await ready_runs(place.store, place.queue)
    place.network.lose("request", "/claim")
    with pytest.raises(Unavailable):
        await place.claim()

    assert (await place.claim()).ids == []
    assert (await place.claim()).ids == [run.id]


async def test_an_answer_that_comes_a_second_time_is_not_taken_for_another(place: Place) -> None:
    await place.register()
    runs = await ready_runs(place.store, place.queue, 2)
    begun = Begun()
    await place.way.claim(Slots(1), begun)
    place.network.repeat_answer()
    with pytest.raises(Unavailable, match="answers something else"):
        await place.way.claim(Slots(1), begun)
    await place.way.claim(Slots(1), begun)

    assert begun.ids == [run.id for run in runs]


@pytest.mark.parametrize("status", [400, 404, 409, 422, 502])
async def test_what_something_on_the_way_answers_is_no_word_of_the_server(
    place: Place, status: int
) -> None:
    await place.register()
    [run] = await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    for call in (
        lambda: place.way.claim(Slots(1), Begun()),
        lambda: place.way.renew({run.id: claimed.run.fence}),
        lambda: place.way.report([], [ending(claimed)]),
    ):
        place.network.answer_instead(status)
        with pytest.raises(Unavailable, match=str(status)):
            await call()
    await place.way.report([], [ending(claimed)])

    assert (await place.row(run.id)).status is RunStatus.SUCCEEDED


async def test_what_became_of_a_claim_is_asked_for_until_it_is_known(place: Place) -> None:
    await place.register()
    [run] = await ready_runs(place.store, place.queue)
    for _ in range(3):
        place.network.lose("answer", "/claim")
        with pytest.raises(Unavailable):
            await place.claim()
    place.restart_api()

    assert (await place.claim()).ids == [run.id]
    assert (await place.row(run.id)).attempt == 1


async def test_a_request_that_was_under_way_for_too_long_claims_nothing(place: Place) -> None:
    known = await place.register()
    late = {"number": 1, "limit": 8}
    place.network.lose("request", "/claim")
    with pytest.raises(Unavailable):
        await place.claim()
    await place.claim()  # nothing came of it: that is settled now
    [run] = await ready_runs(place.store, place.queue)

    assert await place.post(known, "claim", late) == {"items": []}
    await place.post(known, "claim", {"number": 5, "limit": 0})
    assert await place.post(known, "claim", {"number": 4, "limit": 8}) == {"items": []}
    assert (await place.row(run.id)).status is RunStatus.DISPATCHED
    [item] = (await place.post(known, "claim", {"number": 6, "limit": 8}))["items"]
    assert item["run"]["id"] == run.id


async def test_a_claim_given_up_while_the_server_made_it_is_begun_when_claiming_stops(
    place: Place,
) -> None:
    await place.register()
    [run] = await ready_runs(place.store, place.queue)
    place.network.lose("answer", "/claim")
    with pytest.raises(Unavailable):
        await place.claim()
    begun = Begun()
    await place.way.stop_claiming(begun)

    assert begun.ids == [run.id]


async def test_a_worker_that_was_drained_by_hand_begins_what_it_claimed(place: Place) -> None:
    known = await place.register()
    [run] = await ready_runs(place.store, place.queue)
    place.network.lose("answer", "/claim")
    with pytest.raises(Unavailable):
        await place.claim()
    await place.http.post(f"/api/v1/workers/{known.id}/drain")
    begun = Begun()
    await place.way.stop_claiming(begun)

    assert begun.ids == [run.id]
    refused = {"number": 9, "limit": 1}
    answer = await place.http.post(f"/api/v1/workers/{known.id}/claim", json=refused)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_what_a_worker_that_drains_did_not_claim_goes_to_others_at_once(
    place: Place,
) -> None:
    await place.register()
    runs = await ready_runs(place.store, place.queue, count=3)
    await place.way.claim(Slots(1), Begun())
    other = await place.queue.subscribe(worker("another"))
    assert other.received() is None
    await place.way.drain()

    delivery = other.received()
    assert delivery is not None
    assert delivery.message.run_ids == tuple(run.id for run in runs)


async def test_two_claims_at_once_share_one_subscription(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await place.register()
    may_go, subscribe = asyncio.Event(), place.queue.subscribe
    subscriptions = []

    async def subscribe_slowly(to: Worker) -> MemorySubscription:
        await may_go.wait()
        subscriptions.append(await subscribe(to))
        return subscriptions[-1]

    monkeypatch.setattr(place.queue, "subscribe", subscribe_slowly)
    claims = [
        asyncio.create_task(place.post(known, "claim", {"number": number, "wait_seconds": 60}))
        for number in (1, 2)
    ]
    await asyncio.wait(claims, timeout=0.01)
    may_go.set()
    await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
    await place.context.remote_workers.leave(known.id)
    await asyncio.wait(claims)

    assert len(subscriptions) == 2
    for each in subscriptions:
        with pytest.raises(Unavailable, match="closed"):
            await each.receive()


async def test_a_claim_that_is_made_while_its_worker_leaves_is_answered(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await place.register()
    [run] = await ready_runs(place.store, place.queue)
    is_asked, may_go, transact = asyncio.Event(), asyncio.Event(), place.store.transact

    async def transact_slowly(body: Any) -> Any:
        is_asked.set()
        await may_go.wait()
        return await transact(body)

    monkeypatch.setattr(place.store, "transact", transact_slowly)
    claiming = asyncio.create_task(place.claim())
    await is_asked.wait()
    await place.context.remote_workers.leave(known.id)
    may_go.set()

    assert (await claiming).ids == [run.id]


async def test_a_claim_of_an_incarnation_that_was_lost_is_not_begun(place: Place) -> None:
    await place.register()
    await ready_runs(place.store, place.queue)
    place.network.lose("answer", "/claim")
    with pytest.raises(Unavailable):
        await place.claim()
    place.clock.advance(timedelta(seconds=60))
    await place.store.transact(
        lambda t: recover_lost_runs(t, 500, claim_within=LEASE, silent_after=LEASE)
    )
    begun = Begun()
    await place.way.stop_claiming(begun)

    assert begun.ids == []


async def test_a_registration_whose_answer_is_lost_lets_one_worker_in(place: Place) -> None:
    place.network.lose("answer", "/workers")
    with pytest.raises(Unavailable):
        await place.register()
    known = await place.register()

    assert [each.id for each in await place.store.read(lambda r: r.workers_alive())] == [known.id]
    assert known.id.startswith("a-worker-")


async def test_a_report_whose_answer_is_lost_is_stale_when_it_is_repeated(place: Place) -> None:
    known = await place.register()
    [run] = await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    place.network.lose("answer", "/report")
    with pytest.raises(Unavailable):
        await place.way.report([output(claimed, 1, "once")], [ending(claimed)])
    said = {"cause": "itself", "outcome": {"succeeded": False}, "log_seq": 1}
    again = {"endings": [{"run_id": run.id, "fence": 1, **said}]}

    assert await place.post(known, "report", again) == {"accepted": 0, "stale": 1}
    assert (await place.row(run.id)).status is RunStatus.SUCCEEDED
    assert len(await place.store.read(lambda r: r.run_logs(run.id, 0, 10))) == 1


async def test_reports_are_cut_to_what_the_server_takes(place: Place) -> None:
    await place.register()
    runs = await ready_runs(place.store, place.queue, count=2)
    begun = await place.claim()
    place.restart_api(max_body_bytes=SMALL_BODY)
    outputs = [output(begun.runs[0], 1 + n, f"{n} " + "x" * 1_000) for n in range(10)]
    large = success("r" * SMALL_BODY)
    endings = [ending(begun.runs[0]), ending(begun.runs[1], outcome=large)]
    await place.way.report(outputs, endings)

    stored = await place.store.read(lambda r: r.run_logs(runs[0].id, 0, 100))
    assert [row.first_seq for row in stored] == list(range(1, 11))
    first, second = [await place.row(run.id) for run in runs]
    assert first.status is RunStatus.SUCCEEDED
    assert (second.status, second.reason) == (RunStatus.FAILED, "result_too_large")
    assert str(SMALL_BODY) in second.error_message


@pytest.mark.parametrize("what", ["request", "answer"])
async def test_a_piece_that_was_lost_is_sent_again_and_kept_once(place: Place, what: str) -> None:
    await place.register()
    await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    pieces = [b"a" * CHUNK_BYTES, b"b"]
    assert await place.way.store_chunk(chunk(claimed, 0, *pieces))
    place.network.lose(what, "/artifact/1")
    with pytest.raises(Unavailable):
        await place.way.store_chunk(chunk(claimed, 1, *pieces))
    assert await place.way.store_chunk(chunk(claimed, 1, *pieces))
    place.network.lose(what, "/1-1/1")
    with pytest.raises(Unavailable):
        await place.way.fetch_chunk(claimed.run.id, 1, artifact_of(claimed), 1)

    assert await place.way.fetch_chunk(claimed.run.id, 1, artifact_of(claimed), 1) == b"b"
    assert place.network.lost == ["/artifact/1", "/1-1/1"]


async def test_a_large_result_that_the_server_does_not_take_is_refused(place: Place) -> None:
    await place.register()
    await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    piece = chunk(claimed, 0, b"x" * CHUNK_BYTES)
    with pytest.raises(LimitExceeded, match="at most"):
        await place.way.store_chunk(msgspec.structs.replace(piece, size=2**26 + 1))
    place.restart_api(max_body_bytes=SMALL_BODY)
    with pytest.raises(LimitExceeded, match="at most"):
        await place.way.store_chunk(piece)
    place.network.answer_instead(404)
    with pytest.raises(Unavailable):
        await place.way.store_chunk(piece)


async def test_reports_are_no_larger_than_most_servers_take(place: Place) -> None:
    await place.register()
    await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    outputs = [output(claimed, 1 + n, "\x1b" * 60_000) for n in range(5)]
    await place.way.report(outputs, [])

    assert 413 not in place.network.statuses


async def test_a_result_that_the_server_cannot_keep_ends_its_run_nevertheless(place: Place) -> None:
    await place.register()
    [run] = await ready_runs(place.store, place.queue)
    [claimed] = (await place.claim()).runs
    await place.way.report([], [ending(claimed, outcome=success({"a": "x\0"}))])

    row = await place.row(run.id)
    assert (row.status, row.reason) == (RunStatus.FAILED, "result_refused")
    assert "NUL" in row.error_message


async def test_another_api_process_serves_a_worker_in_the_middle_of_its_life(place: Place) -> None:
    await place.register()
    [first] = await ready_runs(place.store, place.queue)
    claimed = await place.claim()
    place.restart_api()
    [second] = await ready_runs(place.store, place.queue)

    assert claimed.ids == [first.id]
    assert (await place.claim()).ids == [second.id]
    assert set((await place.way.renew({first.id: 1, second.id: 1})).statuses) == {
        first.id, second.id,
    }  # fmt: skip


async def test_a_server_that_drains_lets_no_claim_wait(place: Place) -> None:
    known = await place.register()
    body = {"number": 1, "limit": 8, "wait_seconds": 60}
    waiting = asyncio.create_task(place.post(known, "claim", body))
    await asyncio.wait([waiting], timeout=0.01)
    place.context.close()

    assert await waiting == {"items": []}


def test_what_a_silent_worker_did_not_claim_goes_to_others() -> None:
    async def story(place: Place) -> None:
        await place.register()
        runs = await ready_runs(place.store, place.queue, count=3)
        begun = Begun()
        await place.way.claim(Slots(1), begun)
        other = await place.queue.subscribe(worker("another"))
        was_told_at = place.clock.monotonic()
        delivery = await other.receive()

        assert begun.ids == [runs[0].id]
        assert delivery.message.run_ids == tuple(run.id for run in runs)
        assert place.clock.monotonic() - was_told_at >= LEASE.total_seconds()

    in_virtual_time(story)


def test_a_worker_without_runs_asks_a_few_times_within_a_lease() -> None:
    async def story(place: Place) -> None:
        await place.register()
        for _ in range(3):
            assert (await place.claim()).ids == []

        assert 9 <= place.clock.monotonic() <= 11

    in_virtual_time(story)


def test_a_worker_with_a_long_lease_does_not_wait_as_long() -> None:
    async def story(place: Place) -> None:
        place.way = HttpControlPlane(place.http, place.clock, timedelta(days=30))
        await place.register()
        assert (await place.claim()).ids == []
        assert 5 <= place.clock.monotonic() <= 60
        [run] = await ready_runs(place.store, place.queue)
        assert (await place.claim()).ids == [run.id]
        assert (await place.way.renew({run.id: 1})).statuses == {run.id: RunStatus.RUNNING}

    in_virtual_time(story)


def test_an_old_wait_ends_when_the_worker_asks_anew() -> None:
    async def story(place: Place) -> None:
        known = await place.register()
        old = asyncio.create_task(
            place.post(known, "claim", {"number": 1, "limit": 8, "wait_seconds": 60})
        )
        await asyncio.wait([old], timeout=0.01)
        new = asyncio.create_task(
            place.post(known, "claim", {"number": 2, "limit": 8, "wait_seconds": 60})
        )
        assert await old == {"items": []}
        await place.queue.publish([RunMessage("default/shell", (4711,))])
        assert await new == {"items": []}
        assert place.clock.monotonic() < 1

    in_virtual_time(story)


def test_a_caller_that_left_is_given_nothing() -> None:
    async def story(place: Place) -> None:
        known = await place.register()
        body = b'{"number": 1, "limit": 8, "wait_seconds": 60}'
        await call_and_leave(place, f"/api/v1/workers/{known.id}/claim", body)
        [run] = await ready_runs(place.store, place.queue)

        assert place.clock.monotonic() < 1
        assert (await place.claim()).ids == []  # its number is used
        assert (await place.row(run.id)).status is RunStatus.DISPATCHED
        assert (await place.claim()).ids == [run.id]

    in_virtual_time(story)


async def call_and_leave(place: Place, path: str, body: bytes) -> None:
    """Call as a server hands it over when its client is gone already."""
    messages = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "scheme": "http", "server": ("server", 80),
    }  # fmt: skip
    await place.application(scope, receive, send)


def in_virtual_time(story: Callable[[Place], Coroutine[Any, Any, None]]) -> None:
    place = Place()

    async def told() -> None:
        await story(place)
        await place.way.close()

    run_in_virtual_time(told(), place.clock)


SAID: list[Callable[[HttpControlPlane], Awaitable[object]]] = [
    lambda way: way.register(worker()),
    lambda way: way.claim(Slots(8), Begun()),
    lambda way: way.renew({}),
    lambda way: way.report([], [AttemptReport(1, 1, "itself", success(), 0)]),
    lambda way: way.store_chunk(ArtifactChunk(1, 1, 1, 0, b"x")),
    lambda way: way.fetch_chunk(1, 1, ArtifactId(1, 1), 0),
    lambda way: way.drain(),
    lambda way: way.sign_off(),
    lambda way: way.check(),
]


@pytest.mark.parametrize("say", SAID)
def test_a_server_that_says_nothing_is_given_up(
    say: Callable[[HttpControlPlane], Awaitable[object]],
) -> None:
    clock = FakeClock()

    async def call() -> None:
        async with httpx2.AsyncClient(transport=Silence(), base_url="http://server") as http:
            with pytest.raises(Unavailable, match="no answer in time") as told:
                await say(HttpControlPlane(http, clock, LEASE))
            assert not told.value.was_reached

    run_in_virtual_time(call(), clock)
    assert clock.monotonic() <= LEASE.total_seconds() + 0.1
