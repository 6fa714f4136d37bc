"""What an expression over upstream runs may be: as much of CEL as is cheap whatever it is given.

The library parses and evaluates, but tells nothing of what an expression costs. So all that could
cost much is refused here, by its tokens, before anything is stored:

    text ─► tokens ─► paths (what it reads) and comprehensions ─► limits

With these limits the work is at most proportional to what the expression sees, which has a limit
of its own.
"""

import re
from collections.abc import Sequence

import msgspec

LONGEST = 1_000  # characters
MOST_BRACKETS_DEEP = 16  # brackets within brackets
MOST_PATHS = 32  # places that it reads
LONGEST_PATH = 32  # fields down from the root
MOST_SUMS = 8  # each `+` may copy what stands to its left
MOST_COMPREHENSIONS = 4
MOST_BODY_TOKENS = 48  # of all comprehensions together: each costs something for each item

ROOTS = ("upstream", "parameters", "scheduled_for")
OUTCOME_FIELDS = ("status", "result", "results", "reason")

_COMPREHENSIONS = frozenset({"all", "exists", "exists_one"})
_METHODS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "getFullYear", "getMonth", "getDate",
     "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds"}
)  # fmt: skip
_FUNCTIONS = frozenset({"has", "size", "int", "double", "string", "timestamp", "duration"})
_LITERALS = frozenset({"true", "false", "null", "in"})

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<string>"(?:[^"\\\x00-\x1f]|\\[!-~])*"|'(?:[^'\\\x00-\x1f]|\\[!-~])*')
      | (?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]])""",
    re.VERBOSE,
)
_CLOSES = {")": "(", "]": "["}


class SyntaxProblem(ValueError):
    """The expression is none, or none that is allowed; `column` counts characters from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(f"at character {column}: {message}")


class Token(msgspec.Struct, frozen=True):
    """A word of an expression and where it begins, counted from 0."""

    kind: str  # string | number | name | sign
    text: str
    at: int


class Path(msgspec.Struct, frozen=True):
    """What an expression reads: the root's name, then the fields down from it."""

    fields: tuple[str, ...]

    def __str__(self) -> str:
        return self.fields[0] + "".join(map(_as_field, self.fields[1:]))


def _as_field(name: str) -> str:
    return f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else f'["{name}"]'


def paths_of(text: str) -> list[Path]:
    """All that the expression reads; raises SyntaxProblem where it is not one that is allowed."""
    if len(text) > LONGEST:
        raise SyntaxProblem(LONGEST + 1, f"an expression has at most {LONGEST} characters")
    return _Reading(_tokens_of(text)).paths()


def _tokens_of(text: str) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise SyntaxProblem(at + 1, f"{text[at]!r} has no meaning in an expression here")
        kind = found.lastgroup or ""
        # `r"…"`, `b"…"` and `\"\"\"…\"\"\"` end elsewhere than they seem to.
        if kind == "string" and at and (text[at - 1] in "\"'_" or text[at - 1].isalnum()):
            raise SyntaxProblem(at + 1, "a string is written between two plain quotes")
        if kind != "space":
            tokens.append(Token(kind, found.group(), at))
        at = found.end()
    return tokens


class _Reading:
    """One pass over the tokens, with the brackets and the comprehension that are open."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._open: list[str] = []
        self._paths: list[Path] = []
        self._path_ended_at = -1  # the token after the last path
        self._variable: str | None = None  # of the comprehension that is open
        self._body_depth = 0  # how many brackets were open when it was
        self._body_tokens = self._comprehensions = self._sums = 0

    def paths(self) -> list[Path]:
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if self._variable is not None:
                self._count_body(token)
            if token.kind == "sign":
                self._sign(token)
            elif token.kind == "name":
                self._name(token)
            self._at += 1
        return self._paths

    def _sign(self, token: Token) -> None:
        if token.text in "([":
            self._open.append(token.text)
            if len(self._open) > MOST_BRACKETS_DEEP:
                raise _problem(token, f"brackets are nested more than {MOST_BRACKETS_DEEP} deep")
        elif token.text in _CLOSES:
            if not self._open or self._open.pop() != _CLOSES[token.text]:
                raise _problem(token, f"{token.text!r} closes nothing")
            if self._variable is not None and len(self._open) < self._body_depth:
                self._variable = None
        elif token.text == ".":
            self._check_is_of_something(token)
        elif token.text == "+":
            self._sums += 1
            if self._sums > MOST_SUMS:
                raise _problem(token, f"more than {MOST_SUMS} times `+`")

    def _check_is_of_something(self, token: Token) -> None:
        """`.upstream` would be the root once more, under a name that is not looked for."""
        before = self._token(-1)
        is_value = before is not None and (
            before.text in _CLOSES
            or before.kind == "string"
            or (before.kind == "name" and before.text not in _LITERALS)
        )
        if not is_value:
            raise _problem(token, "`.` follows nothing that has fields")

    def _name(self, token: Token) -> None:
        is_field = self._text(-1) == "."
        if self._text(1) == "(":
            self._call(token, is_method=is_field)
        elif is_field or token.text in _LITERALS or token.text == self._variable:
            return
        elif token.text not in ROOTS:
            raise _problem(token, f"unknown name `{token.text}`; there are {_listed(ROOTS)}")
        elif self._variable is not None:
            raise _problem(
                token, f"inside a comprehension only its own variable can be read: {self._variable}"
            )
        else:
            self._path(token)

    def _call(self, token: Token, *, is_method: bool) -> None:
        if is_method and token.text in _COMPREHENSIONS:
            self._comprehension(token)
        elif token.text not in (_METHODS if is_method else _FUNCTIONS):
            known = sorted(_METHODS | _COMPREHENSIONS if is_method else _FUNCTIONS)
            raise _problem(token, f"no function `{token.text}` here; there are {_listed(known)}")

    def _comprehension(self, token: Token) -> None:
        if self._variable is not None:
            raise _problem(token, f"`{token.text}` stands inside another comprehension")
        if self._path_ended_at != self._at - 1:
            raise _problem(token, f"`{token.text}` is asked of a field, as in upstream.a.results")
        self._comprehensions += 1
        if self._comprehensions > MOST_COMPREHENSIONS:
            raise _problem(token, f"more than {MOST_COMPREHENSIONS} comprehensions")
        variable = self._token(2)
        if variable is None or variable.kind != "name" or variable.text in (*ROOTS, *_LITERALS):
            raise _problem(token, f"write it as `{token.text}(x, …)`")
        self._variable = variable.text
        self._body_depth = len(self._open) + 1

    def _count_body(self, token: Token) -> None:
        self._body_tokens += 1
        if self._body_tokens > MOST_BODY_TOKENS:
            raise _problem(token, f"more than {MOST_BODY_TOKENS} words within comprehensions")

    def _path(self, token: Token) -> None:
        fields = [token.text]
        while (step := self._step()) is not None:
            fields.append(step)
            if len(fields) > LONGEST_PATH:
                raise _problem(token, f"reads more than {LONGEST_PATH} fields deep")
        self._path_ended_at = self._at + 1
        self._paths.append(Path(tuple(fields)))
        if len(self._paths) > MOST_PATHS:
            raise _problem(token, f"reads more than {MOST_PATHS} places")
        if token.text == "upstream":
            _check_outcome(token, fields)

    def _step(self) -> str | None:
        """The next field, if one that is known before anything is read; the place moves on."""
        step = self._token(2)
        if step is None:
            return None
        if self._text(1) == "." and step.kind == "name" and self._text(3) != "(":
            self._at += 2
            return step.text
        if self._text(1) == "[" and step.kind == "string" and self._text(3) == "]":
            if "\\" in step.text:
                raise _problem(step, "a name is written without `\\`")
            self._at += 3
            return step.text[1:-1]
        return None

    def _token(self, ahead: int) -> Token | None:
        at = self._at + ahead
        return self._tokens[at] if 0 <= at < len(self._tokens) else None

    def _text(self, ahead: int) -> str:
        token = self._token(ahead)
        return token.text if token is not None else ""


def _check_outcome(token: Token, fields: Sequence[str]) -> None:
    if len(fields) < 3 or fields[2] not in OUTCOME_FIELDS:
        task = fields[1] if len(fields) > 1 else "TASK"
        known = _listed([str(Path(("upstream", task, field))) for field in OUTCOME_FIELDS])
        raise _problem(token, f"of an upstream task there is {known}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _problem(token: Token, message: str) -> SyntaxProblem:
    return SyntaxProblem(token.at + 1, message)
