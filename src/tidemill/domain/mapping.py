"""A run becomes one for each item of a list that an upstream run returned.

    result of the upstream run ─► its list ─► a part of the run for each item, or none and an end

What a run becomes are parts, as those of a run that a strategy splits: whoever waits for the run
waits for all of them.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from tidemill.domain.artifact import INLINE_BYTES, reference_in
from tidemill.domain.dependency import is_expression
from tidemill.domain.run_status import RunStatus
from tidemill.domain.task import MapOver, TaskDefinition
from tidemill.domain.task_run import Hold, TaskRun
from tidemill.errors import Problem


class Source(msgspec.Struct, frozen=True):
    """What a run is mapped over.

    `result` is what the upstream run returned, and the list of what its parts returned where it
    had any. `is_skipped`: it was never to start, so that there is no result.
    """

    result: Any
    is_skipped: bool


class NoItems(msgspec.Struct, frozen=True):
    """How a run ends that has nothing to be mapped over."""

    status: RunStatus
    reason: str
    message: str | None = None


def map_problems(definition: TaskDefinition) -> list[Problem]:
    """What of `map_over` could not be kept, beside the rest of a definition."""
    said = definition.map_over
    if said is None:
        return []
    problems = []
    conditions = {each.task: each.condition for each in definition.dependencies}
    condition = conditions.get(said.task)
    if condition is None:
        wrong = f"{said.task!r} is not among `dependencies`: name one of them as it stands there"
        problems.append(Problem("/map_over/task", wrong))
    elif condition != "succeeded" and not is_expression(definition.trigger_rule):
        wrong = f"there is a list only where it succeeded: its condition may not be {condition!r}"
        problems.append(Problem("/map_over/task", wrong))
    if definition.trigger_rule == "any":
        wrong = "with 'any' a run may start before its list is there: use 'all' or 'none_failed'"
        problems.append(Problem("/trigger_rule", wrong))
    limit = definition.concurrency.limit
    if limit is not None and said.max_parallel is not None and said.max_parallel < limit:
        wrong = (
            f"concurrency.limit ({limit}) binds the items as well, and both are counted under its "
            "key: may not be lower; leave one of the two out, or lower the other"
        )
        problems.append(Problem("/map_over/max_parallel", wrong))
    return problems


def items_of(said: MapOver, source: Source | None) -> list[Any] | NoItems:
    """The items that a run is mapped over; without a source, its upstream run is gone."""
    if source is None:
        return _no_list(f"the run of {said.task} is not there any more")
    if source.is_skipped:
        return NoItems(RunStatus.SKIPPED, "upstream")
    found, place = source.result, f"the result of {said.task}"
    if (reference := reference_in(found)) is not None:
        return _no_list(
            f"{place} is an artifact of {reference.size} bytes: only what stands in its run, of at "
            f"most {INLINE_BYTES} bytes, can be mapped over"
        )
    for name in said.field.split(".") if said.field else ():
        if not isinstance(found, dict) or name not in found:
            return _no_list(f"{place} is {_kind_of(found)} and has no field {name!r}")
        found, place = found[name], f"{name!r} in {place}"
    if not isinstance(found, list):
        return _no_list(f"{place} is {_kind_of(found)}, not a list")
    if not found:
        return NoItems(RunStatus.SKIPPED, "empty")
    if len(found) > said.max_items:
        wrong = f"{place} has {len(found)} items; map_over.max_items is {said.max_items}"
        return NoItems(RunStatus.CANCELLED, "too_many_items", wrong)
    return found


def _no_list(message: str) -> NoItems:
    # The life of a run knows no way from waiting to failed.
    return NoItems(RunStatus.CANCELLED, "not_a_list", message)


def _kind_of(value: Any) -> str:
    """What a value is, without what it says: it may be large, or a secret."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a text" if isinstance(value, str) else "a number"


def columns_of_items(said: MapOver, run: TaskRun, items: Sequence[Any]) -> list[dict[str, Any]]:
    """For each item what is its own in the columns of its run; `run` is as it would start alone."""
    bound = bound_with_others(said, run)
    key, limit = bound.concurrency_key, bound.concurrency_limit
    is_own_key = run.concurrency_key is None and key is not None
    hold_beyond = run.hold or (Hold.LIMIT if is_own_key else None)
    return [
        {
            "parameters": run.parameters
            | {"item": item, "item_index": index, "item_total": len(items)},
            "part_of": run.id,
            "shard_index": index,
            "shard_total": len(items),
            "concurrency_key": key,
            "concurrency_limit": limit,
            # Nobody else has the key: those beyond need not be dispatched to find it full.
            "hold": run.hold if limit is None or index < limit else hold_beyond,
        }
        for index, item in enumerate(items)
    ]


def bound_with_others(said: MapOver, run: TaskRun) -> TaskRun:
    """The same run, of which at most `max_parallel` go at once among the items of its flow run.

    It is a limit under a key of this flow run and task. A run that has a key already keeps it: it
    asks for no more than it may have there.
    """
    if said.max_parallel is None:
        return run
    return msgspec.structs.replace(
        run,
        concurrency_key=run.concurrency_key or f"map:{run.flow_run_id}:{run.task_id}",
        concurrency_limit=min(run.concurrency_limit or said.max_parallel, said.max_parallel),
    )
