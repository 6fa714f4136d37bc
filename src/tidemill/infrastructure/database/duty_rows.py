"""Who has which duty, and how it passes on."""

from datetime import datetime

from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert  # SQLite writes the same

from tidemill.domain.duty import Duty, DutyLease
from tidemill.infrastructure.database.prepared import struct_columns
from tidemill.infrastructure.database.rows import Rows
from tidemill.infrastructure.database.tables import duties

_columns = duties.c
_FIELDS = DutyLease.__struct_fields__

_all = struct_columns(duties, _FIELDS).order_by(_columns.duty)
_first = insert(duties).values(
    duty=bindparam("duty"),
    holder=bindparam("holder"),
    fence=1,
    taken_at=bindparam("now"),
    lease_expires_at=bindparam("until"),
)
_take = _first.on_conflict_do_update(
    index_elements=[_columns.duty],
    set_={
        "holder": _first.excluded.holder,
        "fence": _columns.fence + 1,
        "taken_at": _first.excluded.taken_at,
        "lease_expires_at": _first.excluded.lease_expires_at,
    },
    where=_columns.lease_expires_at <= bindparam("now"),
).returning(_columns.fence)
_held = duties.update().where(
    _columns.duty == bindparam("held_duty"),
    _columns.fence == bindparam("held_fence"),
    _columns.lease_expires_at > bindparam("now"),
)
_renew = _held.values(lease_expires_at=bindparam("until"))
_give_up = _held.values(lease_expires_at=bindparam("now"))


class DutyRows(Rows):
    """The part of a transaction that reads and writes duties."""

    def duties(self) -> list[DutyLease]:
        return [DutyLease(*row) for row in self.fetch(_all)]

    def take_duty(self, duty: Duty, holder: str, until: datetime) -> int | None:
        rows = self.fetch(_take, duty=duty, holder=holder, now=self.now, until=until)
        return int(rows[0][0]) if rows else None

    def renew_duty(self, duty: Duty, fence: int, until: datetime) -> bool:
        return bool(
            self.execute(_renew, held_duty=duty, held_fence=fence, now=self.now, until=until)
        )

    def give_up_duty(self, duty: Duty, fence: int) -> None:
        self.execute(_give_up, held_duty=duty, held_fence=fence, now=self.now)
