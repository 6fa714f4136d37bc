"""A worker is given a large result that its run is to read."""

from tidemill.domain.artifact import ArtifactId
from tidemill.domain.lease import is_held
from tidemill.errors import Conflict
from tidemill.foundation.store import Transaction


def fetch_chunk(
    transaction: Transaction, run_id: int, fence: int, id: ArtifactId, number: int
) -> bytes:
    """A piece of an artifact in the namespace of a run that is held with this fence.

    No mere look, which may see a replica that does not know yet who holds the run. Raises Conflict
    where nobody holds it so, or there is no such piece.
    """
    run = transaction.run_heads([run_id]).get(run_id)
    if run is None or not is_held(run, fence):
        raise Conflict(f"run {run_id} is not held with the fence {fence}")
    content = transaction.artifact_chunk(id, number, run.namespace)
    if content is None:
        raise Conflict(f"artifact {id} is not there any more")
    return content
