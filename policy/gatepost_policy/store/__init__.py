"""The database: open it, its tables and migrations, one transaction at a time."""

from gatepost_policy.store.connect import open_engine, open_url
from gatepost_policy.store.engine import (
    StoreError,
    again,
    explain,
    gone,
    name,
    persistently,
    reading,
    rescued,
    retryable,
    writing,
)
from gatepost_policy.store.file_identity import Files, Inode, files, renewed, was_rescued
from gatepost_policy.store.removed import recording

__all__ = [
    "Files",
    "Inode",
    "StoreError",
    "again",
    "explain",
    "files",
    "gone",
    "name",
    "open_engine",
    "open_url",
    "persistently",
    "reading",
    "recording",
    "renewed",
    "rescued",
    "retryable",
    "was_rescued",
    "writing",
]
