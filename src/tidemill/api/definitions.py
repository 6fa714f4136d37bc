"""Bodies turned into definitions, and merge patches into bodies."""

from typing import Any

import msgspec
from pydantic import ValidationError

from tidemill.api.problems import body_problems, told
from tidemill.api.schemas import TaskBody
from tidemill.api.views import task_view
from tidemill.domain.task import Task, TaskDefinition
from tidemill.errors import InvalidInput

_NOT_DEFINITION = {
    "id", "version", "status", "created_at", "updated_at", "last_run_at", "next_run_at",
}  # fmt: skip


def definition_of(body: TaskBody) -> TaskDefinition:
    """What a body defines; what it leaves out is as the domain has it, which says the same."""
    said = body.model_dump(exclude=_NOT_DEFINITION, exclude_unset=True)
    said["task_type"] = body.executor
    said["start_at"] = body.start_at
    said["end_at"] = body.end_at
    return msgspec.convert(said, TaskDefinition)


def patched(task: Task, patch: dict[str, Any]) -> TaskBody:
    """The body that `patch` makes of a task; raises InvalidInput."""
    merged = _merge(task_view(task), patch)
    try:
        return TaskBody.model_validate(merged)
    except ValidationError as error:
        problems = body_problems(error.errors(), merged)
        raise InvalidInput(told(problems), problems) from None


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged
