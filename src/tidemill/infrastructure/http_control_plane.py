"""The way of a worker that reaches nothing but the API, over a network that loses answers.

A claim carries a number. Where its answer did not come, what became of it is asked for under the
same number before there is another, so that no run is held by a worker that does not know it, and
none is begun twice.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx2
import msgspec

from tidemill.domain.artifact import ArtifactId
from tidemill.domain.outcome import Outcome, failure
from tidemill.domain.run_status import RunStatus
from tidemill.domain.worker import Worker, WorkerStatus
from tidemill.errors import Conflict, InvalidInput, LimitExceeded, Unavailable
from tidemill.foundation.clock import Clock
from tidemill.foundation.control_plane import (
    CALL_HEADER,
    ArtifactChunk,
    AttemptReport,
    Begin,
    ClaimedRun,
    GoOn,
    OutputReport,
    Renewal,
)
from tidemill.foundation.slots import Slots

_log = logging.getLogger("tidemill.worker")

_CLAIMED_AT_ONCE = 100
_BODY_BYTES = 256 * 1024  # about as much is reported at once
_LONGEST_SECONDS = 10.0  # to wait for runs, or without a sign of the server
_KEPT_ALIVE_SECONDS = 4.0  # servers close what is idle for five

T = TypeVar("T")

Report = OutputReport | AttemptReport


class _Claims(msgspec.Struct, frozen=True):
    items: list[ClaimedRun]


class _Held(msgspec.Struct, frozen=True):
    run_id: int
    status: RunStatus


class _Heard(msgspec.Struct, frozen=True):
    """What is read of the answer to a registration or a heartbeat."""

    id: str
    status: WorkerStatus
    runs: list[_Held] = []


class _Reported(msgspec.Struct, frozen=True):
    stale: int


def open_http(server: str, key: str | None) -> httpx2.AsyncClient:
    """Connections to `server`, a URL; each request carries `key` where there is one."""
    return httpx2.AsyncClient(
        base_url=server.rstrip("/"),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        limits=httpx2.Limits(keepalive_expiry=_KEPT_ALIVE_SECONDS),
        trust_env=False,
    )


class HttpControlPlane:
    """One worker's: each call is a request, and `http` is closed with it.

    A claim waits for runs, and a call that keeps leases alive for its answer, for a third of the
    lease at most: what is claimed at the last moment is still safe for as long.
    """

    def __init__(self, http: httpx2.AsyncClient, clock: Clock, lease: timedelta) -> None:
        self._http = http
        self._clock = clock
        self._lease_seconds = lease.total_seconds()
        self._patience_seconds = min(self._lease_seconds / 3, _LONGEST_SECONDS)
        self._registration = uuid4().hex  # the same until it is answered
        self._path = ""
        self._number = 0
        self._is_answered = True  # the claim of this number
        self._slots: Slots | None = None
        self._taken = 0  # slots, for what it may come to

    async def register(self, worker: Worker) -> Worker:
        said = {
            "name": worker.name,
            "hostname": worker.hostname,
            "task_types": worker.task_types,
            "queues": worker.queues,
            "labels": worker.labels,
            "max_concurrent_tasks": worker.max_concurrent_tasks,
            "version": worker.version,
            "metadata": worker.metadata,
        }
        heard = await self._post(
            "", said, _Heard, self._patience_seconds, {"Idempotency-Key": self._registration}
        )
        self._registration = uuid4().hex
        self._path = f"/{quote(heard.id, safe='')}"
        self._number = 0
        self._settle()
        return msgspec.structs.replace(worker, id=heard.id, status=heard.status)

    reaches_line = False

    async def claim(self, slots: Slots, begin: Begin) -> None:
        if not self._is_answered:
            await self._ask_what_became_of_it(begin)
            return
        await slots.wait_free()
        self._number += 1
        self._is_answered = False
        self._slots, self._taken = slots, slots.take(_CLAIMED_AT_ONCE)
        try:
            await self._claim(self._taken, self._patience_seconds, begin)
        except Conflict as refusal:
            self._settle()
            _log.warning("nothing can be claimed: %s", refusal)  # the next renewal knows more
            await self._clock.sleep(self._patience_seconds)

    async def claim_next(self, slots: Slots, begin: Begin) -> None:
        raise NotImplementedError("what is next in line is in the database")

    async def stop_claiming(self, begin: Begin) -> None:
        try:
            if not self._is_answered:
                await self._ask_what_became_of_it(begin)
        finally:
            self._give_back_slots()  # should it never be known, nobody waits for them

    async def _ask_what_became_of_it(self, begin: Begin) -> None:
        """From now on the number of the last claim is used, whether its request arrived or not."""
        try:
            await self._claim(0, 0, begin)
        except Conflict:
            self._settle()  # it was given up as lost, and what it held with it

    async def _claim(self, at_most: int, wait_seconds: float, begin: Begin) -> None:
        said = {
            "number": self._number,
            "limit": at_most,
            "wait_seconds": wait_seconds,
            "lease_seconds": self._lease_seconds,
        }
        asked_at = self._clock.monotonic()
        within = wait_seconds + self._patience_seconds
        claims = await self._post(f"{self._path}/claim", said, _Claims, within)
        self._taken -= len(claims.items)
        self._settle()
        begin(claims.items, asked_at)

    def _settle(self) -> None:
        """It is known what became of the last claim; the slots that it has no use for are free."""
        self._is_answered = True
        self._give_back_slots()

    def _give_back_slots(self) -> None:
        if self._slots is not None:
            self._slots.give_back(self._taken)
        self._taken = 0

    async def renew(self, fences: Mapping[int, int]) -> Renewal:
        said = {
            "current_task_count": len(fences),
            "lease_seconds": self._lease_seconds,
            "runs": [{"run_id": run_id, "fence": fence} for run_id, fence in fences.items()],
        }
        try:
            heard = await self._post(
                f"{self._path}/heartbeat", said, _Heard, self._patience_seconds
            )
        except Conflict:
            return Renewal(is_known=False, statuses={}, may_claim=False)
        statuses = {each.run_id: each.status for each in heard.runs}
        return Renewal(True, statuses, heard.status is WorkerStatus.ACTIVE)

    async def report(
        self,
        outputs: Sequence[OutputReport],
        endings: Sequence[AttemptReport],
        go_on: GoOn | None = None,
    ) -> None:
        for group in _groups([*outputs, *endings]):
            await self._report(group)

    async def _report(self, reports: "list[Report]") -> None:
        said = {
            "outputs": [each for each in reports if isinstance(each, OutputReport)],
            "endings": [each for each in reports if isinstance(each, AttemptReport)],
        }
        try:
            await self._post(f"{self._path}/report", said, dict, _LONGEST_SECONDS)
        except Conflict as refusal:
            _log.warning("what was reported is of no use any more: %s", refusal)
        except (LimitExceeded, InvalidInput) as refusal:
            middle = len(reports) // 2
            if middle:
                await self._report(reports[:middle])
                await self._report(reports[middle:])
            else:
                await self._report_less(reports[0], refusal)

    async def _report_less(self, report: Report, refusal: Exception) -> None:
        """The server takes this in no way; at least the end of an attempt is not kept from it."""
        _log.warning("a report of run %d was refused: %s", report.run_id, refusal)
        if isinstance(report, AttemptReport):
            outcome = _without_result(report.outcome, refusal)
            if outcome != report.outcome:
                await self._report([msgspec.structs.replace(report, outcome=outcome)])

    async def store_chunk(self, chunk: ArtifactChunk) -> bool:
        said = {"fence": chunk.fence, "bytes": chunk.size, "content": chunk.content}  # in base64
        path = f"{self._path}/runs/{chunk.run_id}/artifact/{chunk.number}"
        became = await self._send("PUT", path, said, _Reported, _LONGEST_SECONDS)
        return became.stale == 0

    async def fetch_chunk(self, run_id: int, fence: int, id: ArtifactId, number: int) -> bytes:
        path = f"{self._path}/runs/{run_id}/artifacts/{id}/{number}?fence={fence}"
        response = await self._ask("GET", f"/api/v1/workers{path}", _LONGEST_SECONDS)
        if response.status_code >= 400:
            raise _error_of(response)
        return response.content

    async def check(self) -> None:
        """Raises Unavailable unless the server may serve."""
        response = await self._ask("GET", "/ready", self._patience_seconds)
        if response.status_code >= 500:
            raise _error_of(response)

    async def drain(self) -> None:
        await self._post(f"{self._path}/drain", {}, dict, self._patience_seconds)

    async def sign_off(self) -> None:
        await self._post(f"{self._path}/sign-off", {}, dict, self._patience_seconds)

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(
        self,
        path: str,
        said: Any,
        answer: type[T],
        within_seconds: float,
        headers: dict[str, str] | None = None,
    ) -> T:
        return await self._send("POST", path, said, answer, within_seconds, headers)

    async def _send(
        self,
        method: str,
        path: str,
        said: Any,
        answer: type[T],
        within_seconds: float,
        headers: dict[str, str] | None = None,
    ) -> T:
        response = await self._ask(
            method,
            f"/api/v1/workers{path}",
            within_seconds,
            content=msgspec.json.encode(said),
            headers={"Content-Type": "application/json"} | (headers or {}),
        )
        if response.status_code >= 400:
            raise _error_of(response)
        try:
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise Unavailable(f"{self._http.base_url} is no Tidemill: {error}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        within_seconds: float,
        *,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx2.Response:
        call = uuid4().hex
        asking = self._http.stream(
            method,
            path,
            content=content,
            headers={CALL_HEADER: call} | (headers or {}),
            timeout=within_seconds,
        )
        try:
            # The client's own limits are for each of its steps, of which there may be many.
            async with asyncio.timeout(within_seconds), asking as response:
                # What was sent twice is answered twice, and the second answer meets the next call.
                # Left unread, it ends the connection, and with it whatever else comes too late.
                if response.headers.get(CALL_HEADER, call) != call:
                    raise Unavailable(f"{self._http.base_url} answers something else")
                await response.aread()
                return response
        except (httpx2.TransportError, TimeoutError) as error:
            why = str(error) or "no answer in time"
            raise Unavailable(
                f"{self._http.base_url} does not answer: {why}", was_reached=False
            ) from error


def _error_of(response: httpx2.Response) -> Exception:
    try:
        detail = str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"{response.status_code} {response.reason_phrase}"
    is_ours = response.headers.get("Content-Type") == "application/problem+json"
    match response.status_code:
        case 413:  # whoever on the way says it
            return LimitExceeded(detail)
        case 404 | 409 if is_ours:  # the worker is not, or not as it thinks it is
            return Conflict(detail)
        case 400 | 422 if is_ours:
            return InvalidInput(detail)
        case _:
            return Unavailable(f"the server says: {detail}")


def _groups(reports: "list[Report]") -> "Iterator[list[Report]]":
    """Neighbours that fit into one request."""
    group: list[Report] = []
    size = 0
    for report in reports:
        length = len(msgspec.json.encode(report))
        if group and size + length > _BODY_BYTES:
            yield group
            group, size = [], 0
        group.append(report)
        size += length
    if group:
        yield group


def _without_result(outcome: Outcome, refusal: Exception) -> Outcome:
    """What is left to say of an attempt when the server does not take what came of it."""
    reason = "result_too_large" if isinstance(refusal, LimitExceeded) else "result_refused"
    said = f"the server did not take what came of it: {refusal}"
    return failure(reason, said, exit_code=outcome.exit_code)
