"""Python tasks that do what executors must survive."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tidemill import task_context
from tidemill.task_context import RunContext, TaskCancelled, current_run

NOT_CALLABLE = 1


def give(value: object = None) -> object:
    return value


def give_unwritable() -> object:
    return {1, 2}


def give_not_a_number() -> float:
    return float("nan")


def give_nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def give_long(length: int) -> str:
    return "x" * length


async def give_long_later(length: int) -> str:
    return "x" * length


def read_upstream(run: RunContext) -> dict[str, object]:
    """What the only upstream run returned, of which there is but a reference."""
    [reference] = run.parameters["upstream"].values()
    return {"length": len(json.loads(Path(reference["path"]).read_bytes())), **reference}


def die_with_a_result_begun() -> None:
    """As where a process ends in the middle of writing what a function returned."""
    [_, _, results] = sys.argv[1:]
    prefix, _ = json.loads(results)
    Path(f"{prefix}1").write_text("[1,")
    os._exit(3)


def tell(run: RunContext, missing: int = 1) -> dict[str, object]:
    return {
        "run_id": run.run_id,
        "attempt": run.attempt,
        "parameters": run.parameters,
        "scheduled_for": run.scheduled_for.isoformat(),
        "previous_success_at": run.previous_success_at and run.previous_success_at.isoformat(),
        "told": [
            run.missed_count,
            run.flow_run_id,
            run.shard_index,
            run.shard_total,
            run.traceparent,
        ],
        "environment": run.environment,
        "seen": {name: value for name, value in os.environ.items() if "TIDEMILL" in name},
        "missing": missing,
    }


def forget_the_run() -> None:
    for name in [name for name in os.environ if "TIDEMILL" in name]:
        del os.environ[name]


def tell_qualified(run: task_context.RunContext) -> int:
    return run.run_id


def tell_from_below() -> int:
    return current_run().run_id


def leave(code: object = None) -> None:
    sys.exit(code)  # type: ignore[arg-type]


class Odd(Exception):
    pass


def fail(message: str = "odd") -> None:
    raise Odd(message)


def die(number: int) -> None:
    print("last words", flush=True)
    os.write(2, b"raw last words\n")
    os.kill(os.getpid(), number)
    signal.pause()


def quit_at_once(code: int) -> None:
    os._exit(code)


def die_once(file: str) -> str:
    if not os.path.exists(file):
        open(file, "w").close()
        os._exit(1)
    return "alive"


def wait_for(file: str) -> str:
    """Say so, then block until somebody writes to the FIFO."""
    print(os.getpid(), flush=True)
    with open(file) as gate:
        return gate.read()


def clean_up_when_cancelled() -> str:
    try:
        print(os.getpid(), flush=True)
        time.sleep(600)
    except TaskCancelled:
        print("cleaned up", flush=True)
        raise
    return "never"


def swallow_everything() -> None:
    is_told = False
    while True:
        try:
            if not is_told:
                print(os.getpid(), flush=True)
            is_told = True
            time.sleep(600)
        except BaseException:
            continue


def print_for_ever() -> None:
    print(os.getpid(), flush=True)
    while True:
        print("x" * 1_000)


def report_for_ever(run: RunContext) -> None:
    print(os.getpid(), flush=True)
    while True:
        run.progress(0.5, "x" * 5_000)


def kill_the_slot() -> None:
    print(os.getpid(), flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def leave_children_behind() -> None:
    plain = subprocess.Popen(["sleep", "600"])
    detached = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; wait"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert detached.stdout is not None
    print(plain.pid, detached.pid, detached.stdout.readline().strip(), flush=True)
    with open(current_run().parameters["gate"]) as gate:
        gate.read()


def say_by_all_ways() -> None:
    print("printed")
    sys.stderr.write("written to stderr\n")
    os.write(1, b"raw\n")
    os.write(2, b"raw to stderr\n")
    subprocess.run(["echo", "by a child"], check=True)
    logging.getLogger("odd").warning("logged")
    thread = threading.Thread(target=_say_in_a_thread)
    thread.start()
    thread.join()


def _say_in_a_thread() -> None:
    print("printed in a thread")
    logging.getLogger("odd").warning("logged in a thread")


def write_raw(count: int) -> None:
    for number in range(count):
        os.write(1, b"%d\n" % number)


def log_and_wait(file: str) -> None:
    for number in range(3):
        logging.getLogger("odd").info("%d", number)
    with open(file) as gate:
        gate.read()


def leave_a_thread_talking() -> None:
    def talk() -> None:
        run = current_run_of_main
        while True:
            print("talk")
            run.progress(0.1)
            time.sleep(0.0005)

    current_run_of_main = current_run()
    threading.Thread(target=talk, daemon=True).start()


def report(run: RunContext) -> None:
    run.progress(0.25, "a quarter")
    run.progress()
    run.checkpoint({"at": 3})


def checkpoint_what_cannot_be_kept(run: RunContext) -> None:
    run.checkpoint({1, 2})


async def give_async(value: object = None) -> object:
    print("async says")
    return value


async def say_in_threads_async() -> None:
    def say() -> None:
        for number in range(5):
            print(number)

    await asyncio.to_thread(say)


async def wait_async() -> None:
    print(os.getpid(), flush=True)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("cleaned up", flush=True)
        raise


async def block_the_loop(block: bool = True) -> None:
    if block:
        swallow_everything()


async def quit_async() -> None:
    os._exit(3)


async def fail_async() -> None:
    raise Odd("async")


def quick_unless(
    exit_code: int | None = None, sleep: bool = False, begun: str | None = None
) -> str:
    """Ends at once, so that others are put behind it, but for the odd time; `begun` is a file that
    gets a byte."""
    if begun is not None:
        with open(begun, "ab", buffering=0) as file:
            file.write(b".")
    if exit_code is not None:
        os._exit(exit_code)
    if sleep:
        print("sleeping", flush=True)
        time.sleep(600)
    return "quick"
