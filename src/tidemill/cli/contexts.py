"""Which server is meant: contexts give servers names, and one of them is current.

They are kept in one TOML file of the user, `~/.config/tidemill/contexts.toml`.
"""

import contextlib
import json
import os
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tidemill.errors import InvalidInput


class Contexts(msgspec.Struct, forbid_unknown_fields=True):
    """Servers by name; `current` is the one that is meant where none is named."""

    current: str | None = None
    servers: dict[str, str] = {}


def read_contexts() -> Contexts:
    """What the file says; nothing where there is none. Raises InvalidInput."""
    path = _path()
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Contexts)
    except FileNotFoundError:
        return Contexts()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{path}: {error}") from error


def write_contexts(contexts: Contexts) -> None:
    """Replace the file."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = [] if contexts.current is None else [f"current = {json.dumps(contexts.current)}"]
    servers = [f"{json.dumps(name)} = {json.dumps(url)}" for name, url in contexts.servers.items()]
    written = path.with_suffix(".new")
    written.write_text("\n".join([*current, "", "[servers]", *servers, ""]))
    written.replace(path)


def check_url(server: str) -> str:
    """The URL of a server as it was written; raises InvalidInput where it is none."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(server)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return server
    raise InvalidInput(f"{server!r} is no URL of a server; write http://127.0.0.1:8080")


def current_server() -> str | None:
    """The URL of the current context, if there is one."""
    contexts = read_contexts()
    return contexts.servers.get(contexts.current) if contexts.current else None


def _path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "tidemill" / "contexts.toml"
