"""Journal records into rows and sums, each counted once."""

from gatepost_policy.ingest.merge import known_keys
from gatepost_policy.ingest.totals import write_sums
from gatepost_policy.ingest.waiting import fold, fold_all
from gatepost_policy.ingest.write import Outcome, ingest, remove

__all__ = ["Outcome", "fold", "fold_all", "ingest", "known_keys", "remove", "write_sums"]
