"""`python -m benchmarks [NAME …]`: print the figures, one JSON document each.

Without a name, all of them. Each starts servers of its own, with their data on the disk of the
temporary directory; the figures hold for a machine that has nothing else to do.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.chaos import chaos
from benchmarks.containment import gigabyte
from benchmarks.crashes import crashes
from benchmarks.firings import one_shots, python_firings, shell_firings
from benchmarks.idle import idle, ready, version

BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (
        version, ready, idle, python_firings, shell_firings, one_shots, gigabyte, crashes,
        chaos,
    )
}  # fmt: skip


def main(names: list[str]) -> int:
    """Run the benchmarks of these names, or all."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for name in names or BENCHMARKS:
        print(json.dumps({"benchmark": name} | BENCHMARKS[name](), indent=2), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
