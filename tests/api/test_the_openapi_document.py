"""Whatever the OpenAPI document allows, and what it forbids, is answered as the document says."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from in_process import InProcess

from tidemill.api.app import description
from tidemill.application.define_task import create_task
from tidemill.application.manage_workers import register_worker
from tidemill.application.trigger_runs import TriggerRequest, trigger_runs
from tidemill.domain.task import Dependency
from tidemill.foundation.store import Transaction
from tidemill.testing import builders

_DOCUMENT = description("0")
_LABELS = [
    f"{method.upper()} {path}"
    for path, methods in _DOCUMENT["paths"].items()
    for method in methods
    if path != "/ready"  # the server drains here, so that streams end
]
_STORED = {"tasks": "1", "runs": 1, "workers": "worker-1"}

Call = Callable[[Any], None]


class Fuzzed:
    """Each call meets the same database: one of each kind of thing."""

    def __init__(self) -> None:
        # It takes long to import, and only this test needs it.
        import schemathesis
        from schemathesis import checks
        from schemathesis.specs.openapi import checks as of_openapi

        checks.load_all_checks()
        self._checks = (
            checks.not_a_server_error,
            of_openapi.status_code_conformance,
            of_openapi.content_type_conformance,
            of_openapi.response_headers_conformance,
            of_openapi.response_schema_conformance,
            of_openapi.allow_header_conformance,
        )
        self._process = InProcess()
        self._process.context.close()
        flow_run_id = self._process.store.transact_now(_seed)
        self._stored = _STORED | {"flow-runs": flow_run_id}
        self._data: bytes = self._process.store._connection.driver.serialize()
        schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", self._process.app)
        found = (each.ok() for each in schema.get_all_operations())
        self.operations = {operation.label: operation for operation in found}

    def check(self, case: Any, *, is_stored: bool) -> None:
        """Make the call, about what is stored or about what is named, and look at the answer."""
        kind = case.operation.path.removeprefix("/api/v1/").partition("/")[0]
        if is_stored and "id" in case.path_parameters:
            case.path_parameters["id"] = self._stored[kind]
        self._process.hold(self._data)
        case.call_and_validate(checks=self._checks)


def _seed(transaction: Transaction) -> str | None:
    """The id of the flow run."""
    first = builders.definition(schedule="@hourly")
    then = builders.definition("then", dependencies=[Dependency(f"name:{first.name}")])
    for definition in (first, then):
        create_task(transaction, definition, lambda _: [])
    [run] = trigger_runs(transaction, [TriggerRequest(task=1)])
    register_worker(transaction, builders.worker())
    return run.flow_run_id


@pytest.fixture(scope="module")
def fuzzed() -> Fuzzed:
    """The API and its document."""
    return Fuzzed()


@pytest.mark.slow
@pytest.mark.parametrize("label", _LABELS)
def test_a_caller_is_answered_as_documented_whatever_is_sent(fuzzed: Fuzzed, label: str) -> None:
    from hypothesis import strategies
    from schemathesis import GenerationMode

    operation = fuzzed.operations[label]
    cases = [operation.as_strategy(generation_mode=GenerationMode.POSITIVE)]
    if "parameters" in operation.definition.raw or "requestBody" in operation.definition.raw:
        cases.append(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))

    @given(case=strategies.one_of(cases), is_stored=strategies.booleans())
    @settings(
        max_examples=20,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any, is_stored: bool) -> None:
        fuzzed.check(case, is_stored=is_stored)

    call()


def test_a_reader_finds_every_answer_described() -> None:
    for path, methods in _DOCUMENT["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert {"400", "403", "503"} <= set(answers), (method, path)
            for status, answer in answers.items():
                if int(status) >= 400:
                    assert list(answer["content"]) == ["application/problem+json"], (method, path)
                assert "X-Request-ID" in answer["headers"]


@pytest.mark.parametrize("path", ["/api/v1/runs/{id}/logs", "/api/v1/runs/{id}/events"])
def test_a_reader_finds_the_streams_described(path: str) -> None:
    answer = _DOCUMENT["paths"][path]["get"]["responses"]["200"]

    assert set(answer["content"]) == {"application/json", "text/event-stream"}
