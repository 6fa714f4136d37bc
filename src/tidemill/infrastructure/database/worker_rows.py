"""Workers and stored answers."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import bindparam, text

from tidemill.domain.worker import Worker
from tidemill.foundation.store import AnswerKey, StoredAnswer
from tidemill.infrastructure.database.prepared import in_pairs, struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import idempotency_keys, workers

ANSWERS_ARE_KEPT = timedelta(hours=24)

_FIELDS = Worker.__struct_fields__
_IS_ALIVE = "status IN ('active', 'draining')"
_IS_GONE = "status IN ('offline', 'lost')"

_worker = struct_columns(workers, _FIELDS)
_by_id = _worker.where(workers.c.id == bindparam("worker_id")).with_for_update()
_alive = _worker.where(text(_IS_ALIVE)).order_by(workers.c.registered_at)
_silent = _worker.where(
    text(_IS_ALIVE), workers.c.last_heartbeat < bindparam("before")
).with_for_update()
_prune_workers = workers.delete().where(
    text(_IS_GONE), workers.c.last_heartbeat < bindparam("before")
)
_date = (
    workers.update()
    .where(text(_IS_ALIVE), workers.c.last_heartbeat > bindparam("after"))
    .values(last_heartbeat=bindparam("now"))
)
_update = (
    workers.update()
    .where(workers.c.id == bindparam("worker_id"))
    .values({name: bindparam(f"new_{name}", type_=workers.c[name].type) for name in _FIELDS[1:]})
)
_delete = workers.delete().where(workers.c.id == bindparam("worker_id"))
_is_named = in_pairs((idempotency_keys.c.scope, idempotency_keys.c.key), "answer_keys")
_answers = struct_columns(idempotency_keys, StoredAnswer.__struct_fields__).where(
    _is_named, idempotency_keys.c.created_at > bindparam("after")
)
# Whoever has just stored one under the same key was first.
_delete_old_answers = idempotency_keys.delete().where(
    _is_named, idempotency_keys.c.created_at <= bindparam("until")
)
_prune_answers = idempotency_keys.delete().where(
    idempotency_keys.c.created_at < bindparam("before")
)


class WorkerRows(Rows):
    """The part of a transaction that reads and writes workers and stored answers."""

    def worker(self, worker_id: str) -> Worker | None:
        rows = self.fetch(_by_id, worker_id=worker_id)
        return worker_from(rows[0]) if rows else None

    def workers_alive(self) -> list[Worker]:
        return [worker_from(row) for row in self.fetch(_alive)]

    def silent_workers(self, before: datetime) -> list[Worker]:
        return [worker_from(row) for row in self.fetch(_silent, before=before)]

    def date_heartbeats(self, after: datetime) -> None:
        self.execute(_date, after=after, now=self.now)

    def save_worker(self, worker: Worker) -> None:
        values = {f"new_{name}": getattr(worker, name) for name in _FIELDS[1:]}
        if not self.execute(_update, worker_id=worker.id, **values):
            self.insert_rows(workers, _FIELDS, [msgspec.structs.astuple(worker)])

    def delete_worker(self, worker_id: str) -> None:
        self.execute(_delete, worker_id=worker_id)

    def hold_keys(self, keys: Collection[AnswerKey]) -> set[AnswerKey]:
        return set(keys)  # unless there are several who write at once

    def stored_answers(self, keys: Collection[AnswerKey]) -> dict[AnswerKey, StoredAnswer]:
        rows = self.fetch(_answers, answer_keys=list(keys), after=self.now - ANSWERS_ARE_KEPT)
        return {answer.name: answer for answer in (StoredAnswer(*row) for row in rows)}

    def replace_answer(self, answer: StoredAnswer) -> None:
        self._make_way([answer], until=self.now)
        self._insert_answers([answer])

    def store_answers(self, answers: Sequence[StoredAnswer]) -> None:
        self._make_way(answers, until=self.now - ANSWERS_ARE_KEPT)
        self._insert_answers(answers)

    def _make_way(self, answers: Sequence[StoredAnswer], until: datetime) -> None:
        self.execute(_delete_old_answers, answer_keys=[each.name for each in answers], until=until)

    def _insert_answers(self, answers: Sequence[StoredAnswer]) -> None:
        self.insert_rows(
            idempotency_keys,
            StoredAnswer.__struct_fields__,
            map(msgspec.structs.astuple, answers),
        )

    def prune_workers(self, gone_before: datetime) -> int:
        return self.execute(_prune_workers, before=gone_before)

    def prune_answers(self, created_before: datetime) -> int:
        return self.execute(_prune_answers, before=created_before)


def worker_from(row: list[Any]) -> Worker:
    """A row of the columns that `Worker` names."""
    return Worker(**dict(zip(_FIELDS, row, strict=True)))
