"""A result that is too large for the row of its run is stored beside it, piece by piece."""

from tidemill.application.tell_stale import tell_stale
from tidemill.domain.artifact import Artifact, ArtifactId, length_of_chunk
from tidemill.domain.lease import is_held
from tidemill.errors import Conflict, InvalidInput
from tidemill.foundation.control_plane import ArtifactChunk
from tidemill.foundation.store import Transaction
from tidemill.foundation.wakeups import Topic


def store_chunk(transaction: Transaction, chunk: ArtifactChunk) -> bool:
    """Store a piece, once; False, and told, where its fence is old.

    Raises InvalidInput where it is not as long as the size of the whole says, and Conflict where
    others of this attempt came with another size.
    """
    expected = length_of_chunk(chunk.size, chunk.number)
    if not expected or len(chunk.content) != expected:
        raise InvalidInput(
            f"piece {chunk.number} of {chunk.size} bytes has {expected} bytes, "
            f"not {len(chunk.content)}"
        )
    run = transaction.run_heads([chunk.run_id]).get(chunk.run_id)
    if run is None or not is_held(run, chunk.fence):
        tell_stale(transaction, [(chunk.run_id, chunk.fence)])
        transaction.announce(Topic.EVENTS)
        return False
    id = ArtifactId(chunk.run_id, chunk.fence)
    new = Artifact(chunk.run_id, chunk.fence, run.namespace, chunk.size, transaction.now)
    transaction.keep_artifact(new)
    known = transaction.artifact(id)
    if known is not None and known.size != chunk.size:
        raise Conflict(f"the result of this attempt has {known.size} bytes, not {chunk.size}")
    transaction.keep_chunk(id, chunk.number, chunk.content)
    return True
