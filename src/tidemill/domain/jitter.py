"""Spreading starts: the same instant for the same task and fire time, whoever computes it."""

import hashlib
from datetime import datetime, timedelta


def jittered(fire_time: datetime, key: str, jitter_seconds: float) -> datetime:
    """`fire_time` and a delay in [0, jitter_seconds), in whole milliseconds."""
    if jitter_seconds <= 0:
        return fire_time
    digest = hashlib.blake2b(f"{key}@{fire_time.isoformat()}".encode(), digest_size=8).digest()
    fraction = int.from_bytes(digest) / 2**64
    return fire_time + timedelta(milliseconds=int(fraction * jitter_seconds * 1000))
