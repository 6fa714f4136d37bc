"""What a caller must be allowed to do. Every route names exactly one permission, or is public."""

from enum import StrEnum
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute


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

    def __call__(self) -> None:
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
