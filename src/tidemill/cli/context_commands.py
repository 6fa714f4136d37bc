"""`tidemill context …`."""

from tidemill.cli.contexts import Contexts, check_url, read_contexts, write_contexts
from tidemill.cli.output import Output, say, show_many
from tidemill.errors import NotFound


def list_contexts(*, output: Output = "table") -> None:
    """List the servers that have a name."""
    contexts = read_contexts()
    items = [
        {"name": name, "server": server, "current": name == contexts.current}
        for name, server in contexts.servers.items()
    ]
    show_many(items, output, ("name", "server", "current"))


def create(name: str, /, *, server: str) -> None:
    """Give a server a name; the first one is used from now on."""
    contexts = read_contexts()
    contexts.servers[name] = check_url(server)
    if contexts.current is None:
        contexts.current = name
    write_contexts(contexts)
    say(f"created {name}")


def use(name: str, /) -> None:
    """Mean this server wherever none is named."""
    contexts = read_contexts()
    _must_know(contexts, name)
    contexts.current = name
    write_contexts(contexts)
    say(f"using {name}")


def delete(name: str, /) -> None:
    """Forget a name."""
    contexts = read_contexts()
    _must_know(contexts, name)
    del contexts.servers[name]
    if contexts.current == name:
        contexts.current = None
    write_contexts(contexts)
    say(f"deleted {name}")


def _must_know(contexts: Contexts, name: str) -> None:
    if name not in contexts.servers:
        raise NotFound("context", name)
