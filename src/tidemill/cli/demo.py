"""Tasks that show what there is, for `tidemill up --demo`."""

from datetime import timedelta

import msgspec

from tidemill.application.define_task import create_task
from tidemill.domain.task import Misfire, Retry, TaskDefinition
from tidemill.foundation.registry import ExecutorRegistry
from tidemill.foundation.store import Store, Transaction

_SOON = timedelta(milliseconds=200)  # a first run is there when somebody first looks

DEMO_TASKS = [
    TaskDefinition(
        name="demo-heartbeat",
        description="a shell command every five seconds",
        task_type="shell",
        executor="shell",
        command='echo "run $TIDEMILL_RUN_ID for $TIDEMILL_SCHEDULED_FOR"',
        schedule="@every 5s",
        misfire=Misfire(policy="skip"),
        tags=["demo"],
    ),
    TaskDefinition(
        name="demo-python",
        description="a Python function every ten seconds, with a result",
        task_type="python",
        executor="python",
        command="platform:platform",
        schedule="@every 10s",
        misfire=Misfire(policy="skip"),
        tags=["demo"],
    ),
    TaskDefinition(
        name="demo-flaky",
        description="fails the first time and succeeds on its second attempt, every minute",
        task_type="shell",
        executor="shell",
        command='echo "attempt $TIDEMILL_ATTEMPT"; [ "$TIDEMILL_ATTEMPT" -ge 2 ]',
        schedule="* * * * *",
        retry=Retry(max_retries=2, delay_seconds=1),
        tags=["demo"],
    ),
    TaskDefinition(
        name="demo-by-hand",
        description="has no schedule: tidemill task trigger demo-by-hand --wait --follow",
        task_type="shell",
        executor="shell",
        command='for i in 1 2 3; do echo "step $i"; sleep 0.3; done; '
        "echo '::result:: {\"steps\": 3}'",
        tags=["demo"],
    ),
]


async def add_demo_tasks(store: Store, registry: ExecutorRegistry) -> None:
    """Create those that are not there yet."""

    def add(transaction: Transaction) -> None:
        soon = transaction.now + _SOON
        for definition in DEMO_TASKS:
            if transaction.task_named(definition.namespace, definition.name) is not None:
                continue
            if definition.schedule is not None:
                definition = msgspec.structs.replace(definition, start_at=soon)
            create_task(transaction, definition, registry.check)

    await store.transact(add)
