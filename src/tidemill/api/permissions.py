"""What a caller must be allowed to do. Every route names exactly one permission, or is public."""

from enum import StrEnum
from typing import Annotated, Any

from fastapi import Depends
from fastapi.routing import APIRoute

from tidemill.api.context import Context
from tidemill.errors import PermissionDenied


class Permission(StrEnum):
    """The ten permissions of which roles are made."""

    TASK_READ = "task:read"
    TASK_WRITE = "task:write"
    TASK_DELETE = "task:delete"
    TASK_EXECUTE = "task:execute"
    WORKER_READ = "worker:read"
    WORKER_WRITE = "worker:write"
    SYSTEM_READ = "system:read"
    SYSTEM_WRITE = "system:write"
    USER_READ = "user:read"
    USER_WRITE = "user:write"


class Requirement:
    """Lets a caller pass who has the permission.

    Nobody can log in yet: the server binds to loopback only, where the machine's own users are
    trusted with everything.
    """

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self) -> None:
        """Without login there is nothing to refuse."""


def requires(permission: Permission) -> Any:
    """Declare on a route what its caller must be allowed to do."""
    return Depends(Requirement(permission))


def permission_of(route: APIRoute) -> Permission | None:
    """What a route declares; None where it declares nothing."""
    declared = [
        dependency.dependency.permission
        for dependency in route.dependencies
        if isinstance(dependency.dependency, Requirement)
    ]
    return declared[0] if len(declared) == 1 else None


async def visible_namespace(context: Context) -> str | None:
    """The namespace whose tasks and runs the caller sees; None: those of all."""
    return context.visible_namespace


Visible = Annotated[str | None, Depends(visible_namespace)]


def within(visible: str | None, asked: str | None) -> str | None:
    """The namespace to look into for a caller who asks for `asked`; None: all.

    Raises PermissionDenied where the caller does not see it.
    """
    if visible is None or asked is None:
        return asked or visible
    if asked != visible:
        raise PermissionDenied(f"the namespace {asked!r} is not yours; ask for {visible!r}")
    return asked
