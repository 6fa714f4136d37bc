"""The product without one of its guards is caught by a test that has the name of the promise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import tidemill

_ROOT = Path(__file__).parents[2]
_PACKAGE = Path(tidemill.__file__).parent
_TESTS_FAILED = 1  # pytest's exit code, where others say that it could not run


class Variant(NamedTuple):
    """What is taken out of which file, and the test that notices."""

    missing: str
    caught_by: str
    changes: tuple[tuple[str, str, str], ...]


VARIANTS = (
    Variant(
        "fence check",
        "tests/application/test_record_outcomes.py::"
        "test_a_stale_report_changes_nothing_and_is_told",
        (
            (
                "infrastructure/database/run_rows.py",
                "fence=_runs.fence + 1,\n        event_seq=_runs.event_seq + 1,",
                "fence=_runs.fence,\n        event_seq=_runs.event_seq + 1,",
            ),
        ),
    ),
    Variant(
        "unique key",
        "tests/conformance/test_stores.py::TestInlineSqlite::"
        "test_a_firing_that_exists_already_is_passed_over",
        (
            (
                "infrastructure/database/tables.py",
                'UniqueConstraint("task_id", "scheduled_for", "trigger_key", '
                'name="uq_task_runs_firing"),',
                "",
            ),
            (
                "infrastructure/database/run_rows.py",
                '_FIRING = ("task_id", "trigger_key", "scheduled_for")',
                "_FIRING: tuple[str, ...] = ()",
            ),
        ),
    ),
    Variant(
        "claim before the acknowledgement",
        "tests/conformance/test_control_planes.py::TestStoreControlPlane::"
        "test_what_could_not_be_claimed_goes_to_others",
        (
            (
                "infrastructure/store_control_plane.py",
                "        with taking(slots, len(hints), begin)",
                "        await self._inbox.settle(hints)\n"
                "        with taking(slots, len(hints), begin)",
            ),
        ),
    ),
    Variant(
        "sweep",
        "tests/application/test_recover_lost_runs.py::"
        "test_a_dispatched_run_that_nobody_claims_is_dispatched_again",
        (
            (
                "application/recover_lost_runs.py",
                '    _dispatch_again(transaction, stuck, reason="unclaimed")\n    # Whoever',
                "    # Whoever",
            ),
        ),
    ),
    Variant(
        "count of a limit in the transaction that relies on it",
        "tests/integration/test_postgres.py::test_a_limit_holds_though_all_claim_at_once",
        (
            (
                "infrastructure/database/postgres.py",
                "        if names:\n",
                "        if not names:\n",
            ),
        ),
    ),
    Variant(
        "lock of a flow run before its edges are counted",
        "tests/integration/test_postgres.py::"
        "test_a_dependent_starts_once_though_all_that_it_waits_for_end_at_once",
        (
            (
                "application/release_dependents.py",
                "    counts = FlowCounts(transaction.count_down(ended))\n",
                "",
            ),
            (
                "application/release_dependents.py",
                "for run in in_flow})\n    return ",
                "for run in in_flow})\n"
                "    counts = FlowCounts(transaction.count_down(ended))\n    return ",
            ),
        ),
    ),
    Variant(
        "kill of the whole tree",
        "tests/faults/test_containment.py::"
        "test_a_task_that_refuses_to_end_is_killed_with_its_daemon",
        (
            (
                "worker/executors/slot_process.py",
                "            signal_all(descendants_of(os.getpid()), signal.SIGKILL)",
                "            signal_all([self._main] if self._main else [], signal.SIGKILL)",
            ),
        ),
    ),
    Variant(
        "de-duplication of firings by the database",
        "tests/integration/test_postgres.py::"
        "test_each_firing_is_made_once_though_all_dispatchers_fire",
        (
            (
                "infrastructure/database/firing_rows.py",
                ".with_for_update(skip_locked=True, of=tasks)",
                "",
            ),
        ),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.missing)
def test_the_product_without_it_is_caught(variant: Variant, tmp_path: Path) -> None:
    shutil.copytree(_PACKAGE, tmp_path / "tidemill")
    for name, before, after in variant.changes:
        file = tmp_path / "tidemill" / name
        text = file.read_text()
        assert text.count(before) == 1, f"{name} says it in other words now"
        file.write_text(text.replace(before, after))

    pytest_alone = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=20")
    ended = subprocess.run(
        [*pytest_alone, variant.caught_by],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == _TESTS_FAILED, ended.stdout + ended.stderr
