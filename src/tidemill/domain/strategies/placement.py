"""What a strategy is asked, and what its answer comes to.

A strategy looks at workers and settings, never at a database: the same question has the same
answer on every dispatcher.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from tidemill.domain.gates import queue_refill
from tidemill.domain.task_run import TaskRun
from tidemill.domain.worker import Worker


class Candidate(msgspec.Struct):
    """A worker that may be chosen; what it is given in a transaction is counted here."""

    id: str
    name: str  # outlives the worker's restarts
    free: int  # slots that are neither used nor spoken for; below 0 where more runs wait for it
    room: int  # how many more runs may wait in the queue for it


class Question(msgspec.Struct, frozen=True):
    """The run that a strategy is asked about."""

    task_id: int
    turn: int  # counts up with each question in its lane that a strategy which takes turns is asked
    may_split: bool  # False: it is a part already, or was tried before


class Part(msgspec.Struct, frozen=True):
    """A run, or one of several that it becomes."""

    candidates: Sequence[Candidate]  # by id; never empty
    is_chosen: bool = False  # False: all of them are told of it, and the first free one takes it
    is_bound: bool = False  # it is meant for its worker, and stays with it for another attempt
    shard_index: int | None = None
    shard_total: int | None = None

    def narrowed(self, candidates: Sequence[Candidate]) -> "Part":
        """The same, for one of these only."""
        return msgspec.structs.replace(self, candidates=candidates, is_chosen=True)


@runtime_checkable
class SchedulingStrategy(Protocol):
    """Says whom a run is for. The fields of the class are its settings."""

    @property
    def takes_turns(self) -> bool:
        """Whether it looks at `Question.turn`, which costs a statement."""

    @property
    def splits(self) -> bool:
        """Whether it may make several parts of one."""

    def place(self, question: Question, part: Part) -> Sequence[Part]:
        """`part` with fewer candidates, or the parts that it becomes; at least one."""


class Place(msgspec.Struct, frozen=True):
    """Where one part goes."""

    worker_id: str | None  # None: whoever of those that serve its lane is free first
    has_room: bool  # False: it waits until some of what waits for its worker is gone
    is_bound: bool
    shard_index: int | None
    shard_total: int | None


def candidates_among(
    workers: Collection[Worker], running: Mapping[str, int], waiting: Mapping[str, int]
) -> list[Candidate]:
    """These workers by id, given how many runs each runs and how many wait for it by name."""
    return [
        Candidate(
            worker.id,
            worker.name,
            worker.max_concurrent_tasks - running.get(worker.id, 0) - waiting.get(worker.id, 0),
            queue_refill(worker.max_concurrent_tasks, waiting.get(worker.id, 0)),
        )
        for worker in sorted(workers, key=lambda worker: worker.id)
    ]


def places_of(
    strategy: SchedulingStrategy, question: Question, candidates: Sequence[Candidate]
) -> list[Place]:
    """Where a run and what it is split into goes; the run itself comes first.

    Of several workers that a strategy leaves, the least loaded is taken. What goes to one is
    counted against it at once.
    """
    return [_place_of(part) for part in strategy.place(question, Part(candidates))]


def _place_of(part: Part) -> Place:
    if not part.is_chosen:
        return Place(None, True, False, part.shard_index, part.shard_total)
    chosen = max(part.candidates, key=lambda candidate: candidate.free)
    has_room = chosen.room > 0
    chosen.free -= 1
    chosen.room -= has_room
    return Place(chosen.id, has_room, part.is_bound, part.shard_index, part.shard_total)


def with_room(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those that have use for one run more; all, where none has."""
    return [candidate for candidate in candidates if candidate.room > 0] or candidates


def may_split(run: TaskRun) -> bool:
    """Whether a run is whole, and was not tried as it is."""
    return run.part_of is None and run.attempt == 0
