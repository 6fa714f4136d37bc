"""A version of Tidemill that is one migration newer than this one."""

import shutil
from pathlib import Path

import tidemill
from tidemill.infrastructure.database.schema import HEAD

_PACKAGE = Path(tidemill.__file__).parent

NEXT = f"{int(HEAD) + 1:04}"

_MIGRATION = f'''"""What a later version may need."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{HEAD}"
{{fits}}


def upgrade() -> None:
    for table in ("tasks", "task_runs", "run_attempts", "run_events", "workers"):
        op.add_column(table, sa.Column("later", sa.Text(), nullable=True))
    op.create_table("laters", sa.Column("id", sa.Integer(), primary_key=True))
    op.create_index("ix_task_runs_later", "task_runs", ["later"])


def downgrade() -> None:
    op.drop_table("laters")
    op.drop_index("ix_task_runs_later", "task_runs")
    for table in ("tasks", "task_runs", "run_attempts", "run_events", "workers"):
        op.drop_column(table, "later")
'''


class NextVersion:
    """Its code is in `directory`, and runs with `environment`.

    Its migration only adds. Whether this version fits as well is what it declares: `fits`.
    """

    def __init__(self, directory: Path, *, fits: bool = True) -> None:
        shutil.copytree(_PACKAGE, directory / "tidemill")
        database = directory / "tidemill" / "infrastructure" / "database"
        schema = database / "schema.py"
        schema.write_text(schema.read_text().replace(f'HEAD = "{HEAD}"', f'HEAD = "{NEXT}"'))
        migration = database / "migrations" / "versions" / f"{NEXT}_later.py"
        migration.write_text(_MIGRATION.format(fits=f'fits_from = "{HEAD}"' if fits else ""))
        self.environment = {"PYTHONPATH": str(directory)}
