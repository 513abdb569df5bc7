"""The configuration: find and load the file, its keys and bounds, and the state's directories."""

from gatepost_policy.config.file import ConfigError, DeniedError, find, load
from gatepost_policy.config.paths import (
    cores,
    database_path,
    default_state_dir,
    journal_dir,
    quarantine_dir,
    read_url,
    state_dir,
    store_url,
    worker_count,
)

__all__ = [
    "ConfigError",
    "DeniedError",
    "cores",
    "database_path",
    "default_state_dir",
    "find",
    "journal_dir",
    "load",
    "quarantine_dir",
    "read_url",
    "state_dir",
    "store_url",
    "worker_count",
]
