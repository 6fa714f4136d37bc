"""The OpenAPI document, made complete: what every route shares is said here, once."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI

from tidemill.api.problems import TITLES
from tidemill.api.schemas import ProblemOut

_REF = "#/components/schemas/{model}"
_REQUEST_ID = {
    "X-Request-ID": {
        "description": "the caller's, or one made for this request",
        "schema": {"type": "string"},
    }
}


def describe(title: str, version: str, routers: Sequence[tuple[APIRouter, str]]) -> dict[str, Any]:
    """The document of the routes that these routers declare, each served below a prefix."""
    described = FastAPI(
        title=title,
        version=version,
        summary="A distributed task scheduler",
        separate_input_output_schemas=False,
    )
    for router, prefix in routers:
        described.include_router(router, prefix=prefix)
    document = described.openapi()
    _complete(document)
    return document


def _complete(document: dict[str, Any]) -> None:
    """Give every answer its headers and every problem its shape; drop what never happens."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = ProblemOut.model_json_schema(ref_template=_REF)
    schemas.update(problem.pop("$defs"))
    schemas["ProblemOut"] = problem
    for methods in document["paths"].values():
        for operation in methods.values():
            answers = operation["responses"]
            if any(each["name"] == "idempotency-key" for each in operation.get("parameters", ())):
                answers.setdefault("409", {"description": TITLES[409]})
            if "HTTPValidationError" in str(answers.get("422")):  # ours are 400 and 404
                del answers["422"]
            for status, answer in answers.items():
                answer.setdefault("headers", {}).update(_REQUEST_ID)
                if int(status) >= 400:
                    shape = {"schema": {"$ref": _REF.format(model="ProblemOut")}}
                    answer["content"] = {"application/problem+json": shape}
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
