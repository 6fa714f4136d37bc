"""Four tasks that hang on one another: what one returns, those after it are told."""

from typing import Any

from tidemill.task_context import RunContext

_TEXT = "the mill turns with the tide\nthe tide turns with the moon\n"


def fetch() -> str:
    """Where a text would be downloaded."""
    return _TEXT


def lines(run: RunContext) -> int:
    """How many lines the text has."""
    return len(_upstream(run, "fetch-text", _TEXT).splitlines())


def words(run: RunContext) -> dict[str, int]:
    """How often each word is in it."""
    found: dict[str, int] = {}
    for word in _upstream(run, "fetch-text", _TEXT).split():
        found[word] = found.get(word, 0) + 1
    return found


def report(run: RunContext) -> str:
    """All in one line."""
    count = _upstream(run, "count-lines", 0)
    often = max(_upstream(run, "count-words", {"-": 0}).items(), key=lambda pair: pair[1])
    told = f"{count} lines; the most frequent word is {often[0]!r}"
    run.logger.info(told)
    return told


def _upstream(run: RunContext, task: str, otherwise: Any) -> Any:
    """What an upstream task returned; triggered by hand alone, a task has none."""
    return run.parameters.get("upstream", {}).get(task) or otherwise
