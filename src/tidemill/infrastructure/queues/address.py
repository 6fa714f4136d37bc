"""Where a broker is, and how it is spoken of: never with the password."""

from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from tidemill.errors import InvalidSettings, Problem

_SETTING = "message_queue.url"


class Address(msgspec.Struct, frozen=True):
    """A broker's URL for its client, and the words for it in logs and errors."""

    url: str
    shown: str  # redis://host:6379/0
    secrets: tuple[str, ...]

    def said(self, error: BaseException) -> str:
        """What went wrong there, in one line, without what is secret."""
        text = " ".join(str(error).split()) or type(error).__name__
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"


def read_address(url: str, *, plain: str, encrypted: str, require_tls: bool) -> Address:
    """The broker of a URL whose scheme is `plain` or `encrypted`; raises InvalidSettings."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid("it is not a URL: write its parts percent-encoded") from error
    if parts.scheme not in (plain, encrypted):
        raise _invalid(f"it must begin with {plain}:// or {encrypted}://")
    if not parts.hostname:
        raise _invalid("it names no host")
    if require_tls and parts.scheme == plain:
        raise _invalid(
            f"{plain}:// is not encrypted and message_queue.require_tls is on: use {encrypted}://"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path}"
    return Address(url, shown, _secrets_of(url))


def _secrets_of(url: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    written = [parts.password or "", parts.query, *(value for _, value in parse_qsl(parts.query))]
    found = {each for secret in written for each in (secret, unquote(secret)) if each}
    return tuple(sorted(found, key=len, reverse=True))


def _invalid(message: str) -> InvalidSettings:
    return InvalidSettings([Problem(_SETTING, message)])
