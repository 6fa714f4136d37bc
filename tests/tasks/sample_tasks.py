"""Python tasks that the tests run."""

import asyncio
import logging
import os
import subprocess
import time

from tidemill.task_context import RunContext


def greet(name: str = "world") -> dict[str, str]:
    print(f"hello {name}")
    logging.getLogger("sample").info("greeted")
    return {"greeted": name}


def about(run: RunContext) -> dict[str, object]:
    run.progress(0.5, "half-way")
    return {"run_id": run.run_id, "parameters": run.parameters, "environment": run.environment}


def resume(run: RunContext) -> object:
    if run.last_checkpoint is None:
        run.checkpoint({"done": 3})
        raise RuntimeError("the first attempt fails")
    return run.last_checkpoint


def fail() -> None:
    raise ValueError("this was to be expected")


def sleep() -> None:
    time.sleep(600)


def refuse_to_end() -> None:
    while True:
        try:
            time.sleep(600)
        except BaseException:
            continue


def leave_a_child() -> int:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    return child.pid


def crash() -> None:
    os.kill(os.getpid(), 11)


async def greet_async(name: str = "world") -> str:
    print(f"hello {name}")
    await asyncio.sleep(0)
    return name


async def sleep_async() -> None:
    print("sleeping", flush=True)
    await asyncio.sleep(600)


def nothing() -> None:
    return None
