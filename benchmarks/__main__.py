"""`python -m benchmarks [NAME …] [OPTION=VALUE …]`: print the figures, one JSON document each.

Without a name, all of them but `peers`, which installs others from PyPI, and `chart`; `chaos` and
`failover` name several at once. Options are handed to each that was named. `out=FILE.json` writes
all of it to a file, with what machine it was; `chart figures=FILE.json to=FILE.svg` draws that.
Each starts servers of its own, with their data on the disk of the temporary directory; the figures
hold for a machine that has nothing else to do.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos import chaos_postgres, chaos_rabbitmq, chaos_redis
from benchmarks.charts import chart
from benchmarks.containment import gigabyte
from benchmarks.crashes import crashes
from benchmarks.endpoints import endpoints
from benchmarks.expressions import expressions
from benchmarks.failover import FAILOVER
from benchmarks.firings import one_shots, python_firings, shell_firings
from benchmarks.flow_graphs import flow_graphs
from benchmarks.flows import big_graph, chain, fan, long_chain
from benchmarks.growth import growth_history, growth_tasks
from benchmarks.idle import idle, ready, version
from benchmarks.machine import facts
from benchmarks.peers import peers
from benchmarks.pick_up import pick_up
from benchmarks.schedules import schedules
from benchmarks.spawning import spawning
from benchmarks.throughput import callers, one_caller, throughput

_CHAOS = (chaos_postgres, chaos_redis, chaos_rabbitmq)

BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each
    for each in (
        version, ready, idle, python_firings, shell_firings, one_shots, gigabyte, crashes,
        chain, fan, big_graph, long_chain, expressions, flow_graphs,
        throughput, callers, one_caller, pick_up, schedules, spawning, endpoints,
        growth_tasks, growth_history, peers, chart, *FAILOVER, *_CHAOS,
    )
}  # fmt: skip
_BY_NAME_ALONE = {"peers", "chart"}
SEVERAL = {
    "failover": [each.__name__ for each in FAILOVER],
    "chaos": [each.__name__ for each in _CHAOS],
}


def main(arguments: list[str]) -> int:
    """Run the benchmarks of these names, or all."""
    options = dict(each.split("=", 1) for each in arguments if "=" in each)
    asked = [each for each in arguments if "=" not in each]
    asked = asked or [name for name in BENCHMARKS if name not in _BY_NAME_ALONE]
    names = [name for each in asked for name in SEVERAL.get(each, [each])]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        known = ", ".join([*BENCHMARKS, *SEVERAL])
        print(f"no benchmark {unknown[0]!r}; there are: {known}", file=sys.stderr)
        return 2
    given = {name: _value(text) for name, text in options.items()}
    out = given.pop("out", None)
    figures = {}
    for name in names:
        figures[name] = BENCHMARKS[name](**given)
        print(json.dumps({"benchmark": name} | figures[name], indent=2), flush=True)
        if out is not None:
            told = {"machine": facts(), "figures": figures}
            Path(out).write_text(json.dumps(told, indent=2) + "\n")
    return 0


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


if __name__ == "__main__":
    # Whoever is told to end, as by a time limit, ends what it started as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
