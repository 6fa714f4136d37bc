"""A whole transaction, put together from its parts."""

from tidemill.infrastructure.database.artifact_rows import ArtifactRows
from tidemill.infrastructure.database.duty_rows import DutyRows
from tidemill.infrastructure.database.firing_rows import FiringRows
from tidemill.infrastructure.database.flow_rows import FlowRows
from tidemill.infrastructure.database.placement_rows import PlacementRows
from tidemill.infrastructure.database.query_rows import QueryRows
from tidemill.infrastructure.database.run_rows import RunRows
from tidemill.infrastructure.database.task_rows import TaskRows
from tidemill.infrastructure.database.worker_rows import WorkerRows


class DatabaseTransaction(
    TaskRows,
    FiringRows,
    RunRows,
    ArtifactRows,
    FlowRows,
    PlacementRows,
    WorkerRows,
    DutyRows,
    QueryRows,
):
    """Implements `foundation.store.Transaction` on any engine that SQLAlchemy writes SQL for."""
