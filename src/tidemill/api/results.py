"""The result of a run as it is, also where it is too large to be held in memory."""

from collections.abc import AsyncIterator
from operator import methodcaller

from starlette.responses import Response, StreamingResponse

from tidemill.api.answers import json_answer
from tidemill.api.context import ApiContext
from tidemill.domain.artifact import ArtifactId, reference_in
from tidemill.domain.run_status import FINAL
from tidemill.domain.task import CALL
from tidemill.domain.task_run import TaskRun
from tidemill.errors import Conflict, NotFound, Unavailable
from tidemill.foundation.store import Reads


async def result_answer(context: ApiContext, visible: str | None, run_id: int) -> Response:
    """What a run in the namespace `visible` returned; raises NotFound, and Conflict where it has
    not ended.

    A large result is sent piece by piece as it is read. Its length is told first, so that a reader
    sees where it was broken off.
    """
    found = await context.store.read(lambda reads: _look(reads, run_id, visible))
    if isinstance(found, Response):
        return found
    id, size = found
    return StreamingResponse(
        _content_of(context, visible, id, size),
        media_type="application/json",
        headers={"Content-Length": str(size)},
    )


def _look(reads: Reads, run_id: int, visible: str | None) -> Response | tuple[ArtifactId, int]:
    run = reads.run(run_id, visible)
    if run is None:
        raise NotFound("run", run_id)
    if run.status not in FINAL:
        raise Conflict(f"run {run_id} has not ended: {run.status}")
    return _artifact_of(reads, run) or json_answer(run.result)


def _artifact_of(reads: Reads, run: TaskRun) -> tuple[ArtifactId, int] | None:
    """What its own result refers to, or that of whom it called; whatever else looks like a
    reference is what it returned."""
    reference = reference_in(run.result)
    if reference is None or (reference.id.run_id != run.id and run.task_type != CALL):
        return None
    artifact = reads.artifact(reference.id, run.namespace)
    return None if artifact is None else (reference.id, artifact.size)


async def _content_of(
    context: ApiContext, visible: str | None, id: ArtifactId, size: int
) -> AsyncIterator[bytes]:
    number = sent = 0
    while sent < size:
        content = await context.store.read(methodcaller("artifact_chunk", id, number, visible))
        if content is None:
            raise Unavailable(f"artifact {id} was deleted while it was read")
        yield content
        number, sent = number + 1, sent + len(content)
