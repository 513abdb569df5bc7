"""The database: open it, its tables and migrations, one transaction at a time."""

from gatepost_policy.store.connect import open_engine, open_url
from gatepost_policy.store.engine import (
    RETRIES,
    StoreError,
    explain,
    name,
    persistently,
    reading,
    retryable,
    writing,
)

__all__ = [
    "RETRIES",
    "StoreError",
    "explain",
    "name",
    "open_engine",
    "open_url",
    "persistently",
    "reading",
    "retryable",
    "writing",
]
