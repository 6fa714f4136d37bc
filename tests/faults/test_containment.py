"""Nothing of a task's tree outlives its attempt, whatever the task or a kill does."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.processes import warden_of

from tidemill.domain.outcome import Outcome
from tidemill.foundation.executor import StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.process_tree import children_of, descendants_of
from tidemill.worker.executors.shell import ShellExecutor

MEBIBYTE = 1024 * 1024
SHORT = timedelta(seconds=0.3)

# Starts a daemon that does all it can to get away, and prints its process id.
DAEMON = """
import os, signal
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.write(write, str(os.getpid()).encode())
        os.closerange(0, 256)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    os._exit(0)
os.wait()
print(os.read(read, 20).decode(), flush=True)
"""

# A worker of its own: runs what its arguments say and prints what the task prints.
WORKER = """
import asyncio, sys
from pathlib import Path
from tidemill.foundation.executor import StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors.containment import Containment
from tidemill.worker.executors.shell import ShellExecutor

class Told(CollectedReports):
    def output(self, chunk):
        print(chunk.text, end="", flush=True)

async def main(directory, owner, code):
    containment = Containment(Path(directory), owner)
    await containment.start()
    shell = ShellExecutor(containment)
    await shell.execute(execution(sys.executable, ["-c", code]), Told(), StopRequest())

asyncio.run(main(*sys.argv[1:]))
"""

# A worker of an unprivileged user: one task runs, the next finds no room for a process, and when
# there is room again a third runs. Prints how each ended. Its warden is forked, not started anew:
# the interpreter may lie where that user cannot look.
CROWDED = """
import asyncio, codecs, concurrent.futures.thread, os, resource, shutil, sys, tempfile
from pathlib import Path
from tidemill.foundation.executor import StopRequest
from tidemill.testing.builders import execution
from tidemill.testing.executors import CollectedReports
from tidemill.worker.executors import containment as contained, warden
from tidemill.worker.executors.process_tree import children_of
from tidemill.worker.executors.shell import ShellExecutor

class ForkedWarden:
    def __init__(self, argv, pass_fds, **_):
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for descriptor in map(int, os.listdir("/proc/self/fd")):
                if descriptor > 2 and descriptor not in pass_fds:
                    try:
                        os.close(descriptor)
                    except OSError:  # that of the list itself
                        pass
            sys.argv = argv[2:]
            warden.main()
            os._exit(0)

    def wait(self):
        os.waitpid(self.pid, 0)

contained.subprocess.Popen = ForkedWarden
codecs.lookup("ascii")  # loaded now, while it can be read

if os.getuid() == 0:  # the limit does not bind root
    os.setgroups([])
    os.setresuid(54321, 54321, 54321)

async def main():
    directory = Path(tempfile.mkdtemp())
    gate = directory / "gate"
    os.mkfifo(gate)
    held = os.open(gate, os.O_RDWR)  # until it is closed, whoever reads waits
    containment = contained.Containment(directory / "run", str(directory))
    await containment.start()
    [limited] = children_of(os.getpid())
    reports = CollectedReports()

    async def run(command):
        arguments = {"working_directory": "/"}
        return await ShellExecutor(containment).execute(
            execution(command, arguments), reports, StopRequest()
        )

    first = asyncio.create_task(run(f"echo up; cat {gate}"))
    await reports.until(lambda reports: "up" in reports.text())
    _, most = resource.prlimit(limited, resource.RLIMIT_NPROC)
    resource.prlimit(limited, resource.RLIMIT_NPROC, (1, most))
    second = await run("true")
    resource.prlimit(limited, resource.RLIMIT_NPROC, (most, most))
    third = await run("true")
    os.close(held)
    for outcome in (await first, second, third):
        print(outcome.reason, outcome.error_message, sep=": ")
    await containment.close()
    shutil.rmtree(directory)

asyncio.run(main())
"""


class Watched:
    """A process held by a descriptor, so that its number cannot come to mean another one."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    @property
    def is_gone(self) -> bool:
        return bool(select.select([self._descriptor], [], [], 0)[0])

    def wait(self) -> None:
        """Return once it is gone."""
        select.select([self._descriptor], [], [])

    def close(self) -> None:
        os.close(self._descriptor)


class Watch:
    """The processes that a test holds."""

    def __init__(self) -> None:
        self.held: list[Watched] = []

    def __call__(self, *pids: int) -> list[Watched]:
        found = [Watched(pid) for pid in pids]
        self.held += found
        return found


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    for each in watch.held:
        if not each.is_gone:
            os.kill(each.pid, signal.SIGKILL)  # left over where the test fails
        each.close()


@pytest.fixture
async def containment(tmp_path: Path) -> AsyncIterator[Containment]:
    containment = Containment(tmp_path / "run", owner=str(tmp_path))
    await containment.start()
    yield containment
    await containment.close()


class Run:
    """A Python script under way as a shell task; `gate` holds it up where it reads from it."""

    def __init__(self, containment: Containment, tmp_path: Path, code: str) -> None:
        self.gate = tmp_path / "gate"
        self.gate.unlink(missing_ok=True)
        os.mkfifo(self.gate)
        self.stop = StopRequest()
        self.stop.grace = SHORT
        self.reports = CollectedReports()
        code = f"{code}\nopen({str(self.gate)!r}).read()\n"
        self._task = asyncio.create_task(
            ShellExecutor(containment).execute(
                execution(sys.executable, ["-c", code]), self.reports, self.stop
            )
        )

    async def printed(self, count: int = 1) -> list[int]:
        """The first so many numbers that it printed."""
        await self.reports.until(lambda reports: reports.text().count("\n") >= count)
        return [int(line) for line in self.reports.lines()[:count]]

    async def go_on(self) -> None:
        """Let it come to its end by itself."""
        await asyncio.to_thread(self.gate.write_text, "")

    async def ended(self) -> Outcome:
        return await self._task


def zombies_below(pid: int) -> list[int]:
    return [
        each
        for each in descendants_of(pid)
        if Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    ]


async def test_a_daemon_that_a_task_leaves_behind_is_gone_when_the_run_has_ended(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    run = Run(containment, tmp_path, DAEMON)
    [daemon] = watch(*await run.printed())
    await run.go_on()
    outcome = await run.ended()

    assert outcome.succeeded
    assert daemon.is_gone
    assert zombies_below(os.getpid()) == []


async def test_a_task_that_refuses_to_end_is_killed_with_its_daemon(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    ignoring = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid(), flush=True)"
    run = Run(containment, tmp_path, f"{DAEMON}\n{ignoring}")
    tree = watch(*await run.printed(2))
    run.stop.request(SHORT)
    outcome = await run.ended()

    assert (outcome.reason, outcome.exit_code) == ("signal", -signal.SIGKILL)
    assert [each.is_gone for each in tree] == [True, True]
    assert zombies_below(os.getpid()) == []


async def test_every_process_of_a_tree_is_asked_to_end_before_any_is_killed(
    containment: Containment, tmp_path: Path
) -> None:
    code = f"""
import os, signal, sys
def end(*_):
    descriptor = os.open({str(tmp_path / "asked")!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b"x")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
os.write(1, f"{{os.getpid()}}\\n".encode())
"""
    run = Run(containment, tmp_path, code)
    await run.printed(4)
    run.stop.request(timedelta(seconds=30))
    outcome = await run.ended()

    assert (outcome.succeeded, outcome.exit_code) == (True, 0)
    assert (tmp_path / "asked").read_text() == "xxxx"


async def test_stopped_processes_are_ended_as_well(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    code = """
import os, signal
for handler in (signal.SIG_DFL, signal.SIG_IGN):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, handler)
        os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            signal.pause()
    os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
"""
    run = Run(containment, tmp_path, code)
    tree = watch(*await run.printed(2))
    await run.go_on()
    await run.ended()

    assert [each.is_gone for each in tree] == [True, True]


async def test_two_hundred_children_that_refuse_to_end_are_killed(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    code = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(200):
    child = os.fork()
    if child == 0:
        os.setsid()
        while True:
            signal.pause()
    print(child, flush=True)
"""
    run = Run(containment, tmp_path, code)
    tree = watch(*await run.printed(200))
    run.stop.request(SHORT)
    await run.ended()

    assert all(each.is_gone for each in tree)
    assert zombies_below(os.getpid()) == []


async def test_processes_that_fork_and_end_all_the_time_are_caught(
    containment: Containment, tmp_path: Path
) -> None:
    code = """
import os
if os.fork() == 0:
    print(os.getpid(), flush=True)
    while True:
        if os.fork():
            os._exit(0)
"""
    run = Run(containment, tmp_path, code)
    await run.printed()
    run.stop.request(SHORT)
    await run.ended()

    [slot] = children_of(warden_of(os.getpid()))
    assert descendants_of(slot) == []


async def test_a_second_request_for_a_sooner_end_is_heeded(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    code = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)"
    run = Run(containment, tmp_path, f"{code}\nprint(os.getpid(), flush=True)")
    [main] = watch(*await run.printed())
    run.stop.request(timedelta(minutes=10))
    run.stop.request(timedelta(0))
    async with asyncio.timeout(30):
        await run.ended()

    assert main.is_gone


async def test_a_task_that_kills_its_slot_is_ended_and_the_next_one_runs(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    run = Run(containment, tmp_path, f"{DAEMON}\nprint(os.getppid(), flush=True)")
    daemon, slot = watch(*await run.printed(2))
    os.kill(slot.pid, signal.SIGKILL)
    killed = await run.ended()
    following = Run(containment, tmp_path, "print(1, flush=True)")
    await following.go_on()

    assert (killed.succeeded, killed.reason) == (False, "killed")
    assert daemon.is_gone
    assert (await following.ended()).succeeded
    assert zombies_below(os.getpid()) == []


async def test_when_the_warden_is_killed_all_trees_are_gone_and_the_next_run_works(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    before = Run(containment, tmp_path, "")
    await before.go_on()
    await before.ended()  # leaves an idle slot
    running = [Run(containment, _directory(tmp_path, n), DAEMON) for n in range(2)]
    daemons = [watch(*await each.printed())[0] for each in running]
    warden = warden_of(os.getpid())
    os.kill(warden, signal.SIGKILL)
    killed = [await each.ended() for each in running]
    after = Run(containment, tmp_path, "print(1, flush=True)")
    await after.go_on()

    assert [outcome.reason for outcome in killed] == ["killed", "killed"]
    assert [each.is_gone for each in daemons] == [True, True]
    assert (await after.ended()).succeeded
    assert warden_of(os.getpid()) != warden
    assert zombies_below(os.getpid()) == []


async def test_a_run_that_begins_while_the_warden_dies_still_has_an_outcome(
    containment: Containment, tmp_path: Path
) -> None:
    before = Run(containment, tmp_path, "")
    await before.go_on()
    await before.ended()
    os.kill(warden_of(os.getpid()), signal.SIGKILL)
    reports = CollectedReports()
    outcome = await ShellExecutor(containment).execute(execution("true"), reports, StopRequest())

    assert outcome.succeeded or outcome.reason in ("killed", "not_started")


async def test_closing_ends_what_runs(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    run = Run(containment, tmp_path, DAEMON)
    [daemon] = watch(*await run.printed())
    others = {*children_of(os.getpid())} - {warden_of(os.getpid())}
    await containment.close()

    assert daemon.is_gone
    assert (await run.ended()).reason == "killed"
    assert set(children_of(os.getpid())) == others
    await containment.close()


def _directory(tmp_path: Path, number: int) -> Path:
    directory = tmp_path / str(number)
    directory.mkdir()
    return directory


def start_worker(tmp_path: Path, owner: str, code: str) -> "subprocess.Popen[str]":
    """A worker that runs `code`, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path / "worker"), owner, code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def numbers_from(worker: "subprocess.Popen[str]", count: int) -> list[int]:
    assert worker.stdout is not None
    return [int(worker.stdout.readline()) for _ in range(count)]


FOR_EVER = "\nprint(os.getpid(), flush=True)\nimport time\ntime.sleep(600)"


def test_a_worker_that_is_killed_takes_every_process_with_it(tmp_path: Path, watch: Watch) -> None:
    with start_worker(tmp_path, "killed", DAEMON + FOR_EVER) as worker:
        tree = watch(*numbers_from(worker, 2))
        beside = watch(*descendants_of(worker.pid))
        worker.kill()
        worker.wait()

    assert {each.pid for each in tree} < {each.pid for each in beside}
    assert len(beside) == 4  # the warden, the slot, the main process and its daemon
    for each in beside:
        each.wait()


async def test_a_new_worker_of_the_same_owner_kills_what_an_old_one_could_not_take_along(
    tmp_path: Path, watch: Watch
) -> None:
    code = "import os" + FOR_EVER
    with (
        start_worker(_directory(tmp_path, 1), "mine", code) as mine,
        start_worker(_directory(tmp_path, 2), "another", code) as another,
    ):
        [left] = watch(*numbers_from(mine, 1))
        [foreign] = watch(*numbers_from(another, 1))
        # All at once, as the kernel does when a whole group of processes runs out of memory.
        keepers = [mine.pid, *[pid for pid in descendants_of(mine.pid) if pid != left.pid]]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in keepers:
                os.kill(pid, number)
        mine.wait()
        assert not left.is_gone

        containment = Containment(tmp_path / "run", owner="mine")
        await containment.start()
        was_gone, foreign_was_gone = left.is_gone, foreign.is_gone
        await containment.close()
        another.kill()

    assert was_gone
    assert not foreign_was_gone
    foreign.wait()


GIGABYTE = f"""
{DAEMON}
print(os.getppid(), flush=True)
print(os.getpid(), flush=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
block = (b"x" * 99 + b"\\n") * 10_000
for _ in range(1_074):
    os.write(1, block)
open(os.environ["WRITTEN"], "w").close()
while True:
    os.write(1, block)
"""


@pytest.mark.slow
async def test_a_task_that_writes_a_gigabyte_and_refuses_to_end_costs_no_memory_and_is_gone(
    containment: Containment, tmp_path: Path, watch: Watch
) -> None:
    written = tmp_path / "written"
    os.mkfifo(written)
    reports, stop = CollectedReports(), StopRequest()
    before = resident_bytes(os.getpid())
    count_peak_from_now()
    running = asyncio.create_task(
        ShellExecutor(containment).execute(
            execution(
                sys.executable,
                {"argv": ["-c", GIGABYTE], "environment": {"WRITTEN": str(written)}},
            ),
            reports,
            stop,
        )
    )
    await reports.until(lambda reports: len(reports.lines()) >= 3)
    daemon, slot, main = watch(*map(int, reports.lines()[:3]))
    slot_before = resident_bytes(slot.pid)
    await asyncio.to_thread(written.read_text)
    stop.request(SHORT)
    outcome = await running

    assert outcome.exit_code == -signal.SIGKILL
    assert daemon.is_gone
    assert main.is_gone
    assert peak_bytes(os.getpid()) - before < 64 * MEBIBYTE
    assert peak_bytes(slot.pid) - slot_before < 64 * MEBIBYTE
    assert len(reports.text()) <= 2 * MEBIBYTE


def resident_bytes(pid: int) -> int:
    return _memory(pid, "VmRSS")


def count_peak_from_now() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    return _memory(pid, "VmHWM")


def _memory(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not tell {field}")


def test_a_task_for_which_there_is_no_room_is_not_started_and_takes_no_other_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", CROWDED], capture_output=True, text=True)

    assert done.stdout.splitlines() == [
        "None: None",
        "not_started: no process can be started: Resource temporarily unavailable",
        "None: None",
    ], done.stderr
    assert done.returncode == 0, done.stderr
