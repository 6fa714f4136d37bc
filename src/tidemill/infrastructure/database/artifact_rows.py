"""Large results, which are kept in pieces."""

import msgspec
from sqlalchemy import and_, bindparam, select

from tidemill.domain.artifact import Artifact, ArtifactId
from tidemill.infrastructure.database.prepared import struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import artifact_chunks, artifacts

_FIELDS = Artifact.__struct_fields__
_KEY = ("run_id", "fence")
_CHUNK_KEY = (*_KEY, "number")

_by_id = struct_columns(artifacts, _FIELDS).where(
    artifacts.c.run_id == bindparam("run_id"), artifacts.c.fence == bindparam("fence")
)
_by_id_in_namespace = _by_id.where(artifacts.c.namespace == bindparam("namespace"))
_chunk = (
    select(artifact_chunks.c.content)
    .join_from(
        artifacts,
        artifact_chunks,
        and_(
            artifact_chunks.c.run_id == artifacts.c.run_id,
            artifact_chunks.c.fence == artifacts.c.fence,
        ),
    )
    .where(
        artifacts.c.run_id == bindparam("run_id"),
        artifacts.c.fence == bindparam("fence"),
        artifact_chunks.c.number == bindparam("number"),
    )
)
_chunk_in_namespace = _chunk.where(artifacts.c.namespace == bindparam("namespace"))


class ArtifactRows(Rows):
    """The part of a transaction that reads and writes large results."""

    def artifact(self, id: ArtifactId, namespace: str | None = None) -> Artifact | None:
        key = msgspec.structs.asdict(id)
        if namespace is None:
            rows = self.fetch(_by_id, **key)
        else:
            rows = self.fetch(_by_id_in_namespace, **key, namespace=namespace)
        return Artifact(*rows[0]) if rows else None

    def artifact_chunk(
        self, id: ArtifactId, number: int, namespace: str | None = None
    ) -> bytes | None:
        key = msgspec.structs.asdict(id) | {"number": number}
        if namespace is None:
            rows = self.fetch(_chunk, **key)
        else:
            rows = self.fetch(_chunk_in_namespace, **key, namespace=namespace)
        return bytes(rows[0][0]) if rows else None

    def keep_artifact(self, artifact: Artifact) -> None:
        row = msgspec.structs.astuple(artifact)
        self.insert_rows(artifacts, _FIELDS, [row], unless_taken=_KEY)

    def keep_chunk(self, id: ArtifactId, number: int, content: bytes) -> None:
        self.insert_rows(
            artifact_chunks,
            (*_CHUNK_KEY, "content"),
            [(id.run_id, id.fence, number, content)],
            unless_taken=_CHUNK_KEY,
        )
