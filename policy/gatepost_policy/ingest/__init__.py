"""Turn journal records into rows and sums, and count each once."""

from gatepost_policy.ingest import guesses, import_runs
from gatepost_policy.ingest.import_undo import CannotUndoError, Undone, undo
from gatepost_policy.ingest.merge import known_keys
from gatepost_policy.ingest.totals import write_sums
from gatepost_policy.ingest.waiting import fold, fold_all
from gatepost_policy.ingest.write import Outcome, ingest, remove

__all__ = [
    "CannotUndoError",
    "Outcome",
    "Undone",
    "fold",
    "fold_all",
    "guesses",
    "import_runs",
    "ingest",
    "known_keys",
    "remove",
    "undo",
    "write_sums",
]
