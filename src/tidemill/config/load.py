"""Settings are put together: flags > environment > file > profile > defaults.

Everything that is wrong is said at once, each with its place.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tidemill.config.settings import Settings
from tidemill.errors import InvalidSettings, Problem

PREFIX = "TIDEMILL_"

# Variables with our prefix that are not settings: they steer the client or the loading itself.
_NOT_SETTINGS = {
    "TIDEMILL_CONFIG",
    "TIDEMILL_ENV",
    "TIDEMILL_SERVER",
    "TIDEMILL_DEBUG",
    "TIDEMILL_NAMESPACE",
    "TIDEMILL_API_KEY",
    "TIDEMILL_MASTER_KEY",
    "TIDEMILL_MASTER_KEY_FILE",
    # What a task is given: a task may well call the command.
    "TIDEMILL_CONTAINMENT",
    "TIDEMILL_RUN_ID",
    "TIDEMILL_TASK_ID",
    "TIDEMILL_TASK_NAME",
    "TIDEMILL_ATTEMPT",
    "TIDEMILL_FENCE",
    "TIDEMILL_SCHEDULED_FOR",
    "TIDEMILL_PREVIOUS_SUCCESS_AT",
    "TIDEMILL_MISSED_COUNT",
    "TIDEMILL_FLOW_RUN_ID",
    "TIDEMILL_PARAMETERS",
    "TIDEMILL_RESULT_FILE",
}


def load_settings(
    environment: Mapping[str, str],
    *,
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. `flags` are dotted keys (`api.port`); raises InvalidSettings."""
    problems: list[Problem] = []
    document = _read_file(_file_of(environment, config_file), problems)
    profile = _profile_of(document, environment, problems)
    merged: dict[str, Any] = {}
    for layer in (
        profile,
        document,
        dict(_from_environment(environment, problems)),
        dict(_nested(flags or {})),
    ):
        _merge(merged, layer)
    _refuse_sealed(merged, "", problems)
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        problems += [problem for each in error.errors() for problem in _problems_of(each)]
    else:
        if not problems:
            return settings
    raise InvalidSettings(problems)


def _file_of(environment: Mapping[str, str], config_file: Path | None) -> Path | None:
    if config_file is not None:
        return config_file
    if named := environment.get("TIDEMILL_CONFIG"):
        return Path(named)
    default = Path("tidemill.toml")
    return default if default.exists() else None


def _read_file(path: Path | None, problems: list[Problem]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), f"is not TOML: {error}"))
    return {}


def _profile_of(
    document: dict[str, Any], environment: Mapping[str, str], problems: list[Problem]
) -> dict[str, Any]:
    """Take the profiles out of the document and return the chosen one."""
    profiles = document.pop("profiles", {})
    chosen = environment.get("TIDEMILL_ENV")
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        problems.append(Problem("profiles", "must be tables: [profiles.NAME]"))
        return {}
    if chosen is None or not profiles:
        return {}
    if chosen not in profiles:
        known = ", ".join(sorted(profiles))
        problems.append(Problem("TIDEMILL_ENV", f"no profile {chosen!r}; there are: {known}"))
        return {}
    found: dict[str, Any] = profiles[chosen]
    return found


def _from_environment(
    environment: Mapping[str, str], problems: list[Problem]
) -> Iterator[tuple[str, Any]]:
    values: dict[str, Any] = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in _NOT_SETTINGS:
            continue
        key = name.removeprefix(PREFIX).lower().replace("__", ".")
        if key.endswith("_file"):
            key = key.removesuffix("_file")
            if name.removesuffix("_FILE") in environment:
                problems.append(Problem(name, "is set beside the value itself; leave one out"))
                continue
            try:
                text = Path(text).read_text().strip()
            except OSError as error:
                problems.append(Problem(name, f"cannot read {text}: {error.strerror}"))
                continue
            except UnicodeDecodeError:
                problems.append(Problem(name, f"{text} is not text"))
                continue
        if "." not in key and key not in Settings.model_fields:
            problems.append(Problem(name, f"is no known setting{_hint(key)}"))
            continue
        values[key] = _parsed(text)
    yield from _nested(values)


def _parsed(text: str) -> Any:
    """Lists and tables are written as JSON; everything else is taken as text and converted."""
    if text[:1] in {"[", "{"}:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _nested(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        place = tree
        for section in sections:
            if not isinstance(place.get(section), dict):
                place[section] = {}
            place = place[section]
        place[last] = value
    yield from tree.items()


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _refuse_sealed(tree: Mapping[str, Any], path: str, problems: list[Problem]) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _refuse_sealed(value, f"{path}{key}.", problems)
        elif isinstance(value, str) and value.startswith("enc:v1:"):
            problems.append(
                Problem(f"{path}{key}", "sealed values cannot be opened by this version")
            )


def _problems_of(error: Any) -> Iterator[Problem]:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        yield from _unknown(key, error["input"])
    elif error["type"] == "value_error":
        yield Problem(key, str(error["ctx"]["error"]))
    else:
        yield Problem(key, error["msg"])


def _unknown(key: str, value: Any) -> Iterator[Problem]:
    """A section that is not known is told by its keys: those have a nearest one."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from _unknown(f"{key}.{name}", each)
    else:
        yield Problem(key, f"is no known setting{_hint(key)}")


def _hint(key: str) -> str:
    near = get_close_matches(key, sorted(_known_keys(Settings, "")), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _known_keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _known_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name
