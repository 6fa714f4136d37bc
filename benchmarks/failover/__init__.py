"""How soon others go on when a part of a cluster dies, and that nothing is lost by it."""

from benchmarks.failover.handovers import broker_wiped, worker_killed
from benchmarks.failover.interruptions import broker_killed, database_killed, dispatcher_killed
from benchmarks.failover.restarts import rolling_restart
from benchmarks.failover.survival import everything_killed

FAILOVER = (
    dispatcher_killed, worker_killed, database_killed, broker_killed, broker_wiped,
    rolling_restart, everything_killed,
)  # fmt: skip
