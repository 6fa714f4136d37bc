"""JSON bodies, read strictly: no NaN, no half surrogates, no NUL, nothing nested without end."""

import math
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from tidemill.api.problems import BadRequest, pointer_to, told
from tidemill.errors import InvalidInput, Problem


def read_json(body: bytes) -> Any:
    """What a body says; raises BadRequest, or InvalidInput where it holds what nothing can keep."""
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if _SUSPECT.search(body):
        unusable = list(_unusable(found, ""))
        if unusable:
            raise InvalidInput(told(unusable), unusable)
    return found


_SUSPECT = re.compile(rb"\\u0000|[eE]\+?[0-9]{3}|[0-9]{300}")  # may be a NUL, or infinite


def _unusable(value: Any, pointer: str) -> Iterator[Problem]:
    if isinstance(value, str) and "\0" in value:
        yield Problem(pointer, "must not hold a NUL")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(pointer, "is too large a number")
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _unusable(name, pointer_to(pointer, name))
            yield from _unusable(member, pointer_to(pointer, name))
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from _unusable(element, pointer_to(pointer, index))
