"""Huey: a consumer with two threads. Run by an interpreter of its own."""

import subprocess
import sys

import count
import huey_tasks
import loads


class Huey(loads.Load):
    def enqueue(self) -> None:
        huey_tasks.nothing()

    def enqueue_note(self, number: int) -> None:
        huey_tasks.note(number)

    def is_over(self) -> bool:
        return count.counted() >= self.asked


if __name__ == "__main__":
    consumer = [
        sys.executable, "-m", "huey.bin.huey_consumer", "huey_tasks.huey", "--workers=2", "--quiet",
    ]  # fmt: skip
    with subprocess.Popen(consumer, stdout=sys.stderr) as running:
        loads.obey(Huey().kinds())
        running.terminate()
