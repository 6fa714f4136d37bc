"""A Python task that shows where it is and waits until it is let go."""

from pathlib import Path

from tidemill.task_context import RunContext


def report(gate: str, run: RunContext) -> str:
    print("started", flush=True)
    run.progress(0.5, "half-way")
    said = Path(gate).read_text()  # a named pipe: returns once somebody wrote and closed it
    run.progress(1.0, "done")
    return said
