"""The one process of a host that writes the journal's records into the store."""

from gatepost_policy.recorder.batch import record_batch
from gatepost_policy.recorder.recorder import (
    LOCK,
    Recorder,
    keep_recording,
    publish_now,
    wait_until_ingested,
)

__all__ = [
    "LOCK",
    "Recorder",
    "keep_recording",
    "publish_now",
    "record_batch",
    "wait_until_ingested",
]
