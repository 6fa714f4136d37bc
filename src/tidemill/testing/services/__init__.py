"""Real servers that tests start themselves: PostgreSQL, PgBouncer, Redis and RabbitMQ."""

from tidemill.testing.services.pgbouncer import PgBouncer
from tidemill.testing.services.postgres import Postgres
from tidemill.testing.services.programs import ServiceMissing
from tidemill.testing.services.rabbitmq import RabbitMq
from tidemill.testing.services.redis import Redis
from tidemill.testing.services.service import Service

__all__ = ["PgBouncer", "Postgres", "RabbitMq", "Redis", "Service", "ServiceMissing"]
