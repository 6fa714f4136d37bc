"""Commands that need no server, and `doctor`, which finds out whether there is one."""

import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tidemill import __version__
from tidemill.cli.output import Common, Output, say, show_many, show_one


def schedule_next(
    expression: str,
    /,
    *,
    tz: str = "UTC",
    count: Annotated[int, Parameter(name=["-n", "--count"])] = 10,
    after: datetime | None = None,
    gap: Literal["run_after", "skip"] = "run_after",
    fold: Literal["first", "second", "both"] = "first",
    output: Output = "table",
) -> None:
    """Show when an expression fires; no server is asked.

    Parameters
    ----------
    expression
        cron with five or six fields, @daily, @every 30s, @at 2026-12-01T09:00:00+01:00, RRULE:…
    """
    from tidemill.domain.schedule import ScheduleSpec, compile_schedule

    begin = (after or datetime.now(UTC)).astimezone(UTC)
    spec = ScheduleSpec(expression=expression, timezone=tz, gap=gap, fold=fold, anchor_at=begin)
    fires = compile_schedule(spec).preview(begin, count)
    items = [
        {"at": f"{f.at:%FT%TZ}", "local": f.local.isoformat(timespec="seconds"), "note": f.note}
        for f in fires
    ]
    show_many(items, output, ("at", "local", "note"))


def config_show(
    *,
    config: Path | None = None,
    output: Output = "yaml",
) -> None:
    """Print every setting as it is in force here."""
    from tidemill.config.load import load_settings

    show_one(load_settings(os.environ, config_file=config).model_dump(), output)


def config_check(*, config: Path | None = None) -> None:
    """Say everything that is wrong with the settings, at once."""
    from tidemill.config.load import load_settings
    from tidemill.container.strategies import build_strategies

    build_strategies(load_settings(os.environ, config_file=config))
    say("the settings are right")


def doctor(*, common: Common | None = None) -> int:
    """Look at what usually goes wrong and say how it is."""
    common = common or Common()
    findings = [_machine(), _python_version(), _containment(), _settings(), _server(common)]
    for is_well, what, detail in findings:
        sys.stdout.write(f"{'ok  ' if is_well else 'FAIL'}  {what}: {detail}\n")
    return 0 if all(is_well for is_well, _, _ in findings) else 1


Finding = tuple[bool, str, str]


def _machine() -> Finding:
    return sys.platform == "linux", "machine", f"{platform.system()} {platform.release()}"


def _python_version() -> Finding:
    return sys.version_info >= (3, 11), "python", f"{platform.python_version()} {sys.executable}"


def _containment() -> Finding:
    has_shell = shutil.which("sh") is not None
    has_proc = Path("/proc/self/task").is_dir()
    detail = "processes can be followed" if has_proc else "/proc is not mounted"
    return has_proc and has_shell, "containment", detail


def _settings() -> Finding:
    from tidemill.config.load import load_settings
    from tidemill.errors import InvalidSettings

    try:
        settings = load_settings(os.environ)
    except InvalidSettings as error:
        return False, "settings", str(error)
    return True, "settings", f"data in {Path(settings.data_dir).absolute()}"


def _server(common: Common) -> Finding:
    from tidemill.client.errors import ServerError, Unreachable

    with common.client() as client:
        try:
            health = client.call("GET", "/system/health")
            version = client.call("GET", "/system/stats")["version"]
        except (Unreachable, ServerError) as error:
            return False, "server", str(error)
    state = ", ".join(f"{name} {each['status']}" for name, each in health["components"].items())
    same = "" if version == __version__ else f"; it is {version}, this is {__version__}"
    return health["status"] == "up", "server", f"{client.server}: {state}{same}"


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands: source <(tidemill completion bash)."""
    from tidemill.cli.app import build

    sys.stdout.write(build(for_help=True).generate_completion(prog_name="tidemill", shell=shell))
