"""What every test of the metrics and of health has."""

import pytest

from gatepost_policy import journal
from gatepost_policy.journal.losses import Losses


@pytest.fixture(autouse=True)
def no_losses_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are red for a minute: a test of the journal in this process may have had some."""
    monkeypatch.setattr(journal, "LOSSES", Losses())
