"""Whole files of tasks: all of one is applied together, or none."""

import asyncio
from collections.abc import Iterator
from functools import partial

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from tidemill.api.answers import (
    Answer,
    IdempotencyKey,
    carry_out,
    documented,
)
from tidemill.api.context import ApiContext, Context
from tidemill.api.definitions import definition_of
from tidemill.api.permissions import Permission, Visible, requires, within
from tidemill.api.routing import LargeJsonRoute
from tidemill.api.schemas import ApplyBody, ApplyOut
from tidemill.application.apply_tasks import Wanted, apply_tasks
from tidemill.application.define_tasks import problems_of
from tidemill.foundation.store import Transaction

PATH = "/apply"
LARGEST_BODY = 16 * 1024 * 1024  # bytes

router = APIRouter(tags=["tasks"], route_class=LargeJsonRoute)


@router.post(
    PATH,
    dependencies=[requires(Permission.TASK_WRITE)],
    responses=documented(200, ApplyOut, 409, 413, 415, 422),
)
async def apply(
    request: Request,
    context: Context,
    visible: Visible,
    body: ApplyBody,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make tasks be as they are given, all of them or none.

    They may name one another in any order. A task that is as it should be is left alone.
    """
    # The loop does not wait for what takes long with many.
    wanted = await asyncio.to_thread(lambda: list(_wanted(body, context)))
    for namespace in {body.namespace, *(each.definition.namespace for each in wanted)}:
        within(visible, namespace)

    def act(transaction: Transaction) -> Answer:
        applied = apply_tasks(
            transaction,
            wanted,
            prune_in=body.namespace if body.prune else None,
            dry_run=body.dry_run,
        )
        return Answer(200, {"items": msgspec.to_builtins(applied), "dry_run": body.dry_run})

    return await carry_out(request, context, idempotency_key, act)


def _wanted(body: ApplyBody, context: ApiContext) -> Iterator[Wanted]:
    problems = partial(problems_of, check=context.check_task)
    for index, task in enumerate(body.tasks):
        definition = definition_of(task)
        if "namespace" not in task.model_fields_set:
            definition = msgspec.structs.replace(definition, namespace=body.namespace)
        yield Wanted(
            definition=definition,
            status=task.status if "status" in task.model_fields_set else None,
            pointer=f"/tasks/{index}",
            problems=problems(definition),
        )
