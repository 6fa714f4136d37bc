"""Airflow: its own server, scheduler and processor of files. Run by an interpreter of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import ordered

_STARTS_WITHIN_SECONDS = 180
_POLL_SECONDS = 0.5
_PROGRAMS = Path(sys.executable).parent

_DAGS = """
import os

import ordered
from airflow.sdk import DAG, task


@task
def stamp(file):
    ordered.stamp(file)


with DAG("chain", schedule=None, is_paused_upon_creation=False):
    previous = stamp("{{ dag_run.conf['file'] }}")
    for _ in range(int(os.environ["PEER_EDGES"])):
        following = stamp("{{ dag_run.conf['file'] }}")
        previous >> following
        previous = following

with DAG("fan", schedule=None, is_paused_upon_creation=False):
    first, last = [stamp("{{ dag_run.conf['file'] }}") for _ in range(2)]
    for _ in range(int(os.environ["PEER_WIDTH"])):
        first >> stamp("{{ dag_run.conf['file'] }}") >> last
"""


def chain(file: str, edges: int) -> None:
    carry_out("chain", file, edges + 1)


def fan(file: str, width: int) -> None:
    carry_out("fan", file, width + 2)


def carry_out(dag: str, file: str, tasks: int) -> None:
    airflow("dags", "trigger", dag, "--conf", f'{{"file": "{file}"}}')
    while not (Path(file).exists() and len(Path(file).read_text().splitlines()) >= tasks):
        time.sleep(_POLL_SECONDS)


def airflow(*arguments: str) -> None:
    subprocess.run(["airflow", *arguments], check=True, stdout=sys.stderr)


def wait_for_dags() -> None:
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while time.monotonic() < until:
        listed = subprocess.run(
            ["airflow", "dags", "list", "-o", "plain"], check=False, capture_output=True, text=True
        )
        if all(f"{dag} " in listed.stdout for dag in ("chain", "fan")):
            return
        time.sleep(_POLL_SECONDS)
    raise TimeoutError("the tasks were not read")


if __name__ == "__main__":
    os.environ["PATH"] = f"{_PROGRAMS}{os.pathsep}{os.environ['PATH']}"  # it looks for itself
    dags = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    dags.mkdir(parents=True)
    (dags / "peer.py").write_text(_DAGS)
    with subprocess.Popen(["airflow", "standalone"], stdout=sys.stderr) as running:
        wait_for_dags()
        ordered.obey(chain, fan)
        running.terminate()
