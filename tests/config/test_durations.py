"""A duration says its unit, in a file and back into one."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from from_table import from_table
from gatepost_milter.replay.private_milter import to_toml
from gatepost_policy.config.settings import (
    LONGEST_S,
    Retention,
    Sender,
    Settings,
    duration,
    in_words,
)
from gatepost_policy.config.values import write_table


@given(st.integers(1, LONGEST_S))
def test_words_are_read_back(seconds: int) -> None:
    # Nine digits of seconds are 31 years; what is longer and not a whole minute nobody can write.
    if seconds < 1_000_000_000 or seconds % 60 == 0:
        assert duration(in_words(seconds)) == seconds


@pytest.mark.parametrize("value", [365, 24.0, True, "365", "-3d", "", None, "1001y", "3 0 d"])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="want a duration"):
        duration(value)


def test_settings_come_back_from_a_file() -> None:
    """What `replay` writes for its own milter is read by the same rules."""
    wanted = Settings(retention=Retention(rows=7 * 86_400), sender=Sender(listing_first=90))
    document = tomllib.loads(to_toml(write_table(wanted, changed=True)))
    assert document["retention"] == {"rows": "7d"}
    assert document["sender"]["listing_first"] == "90s"
    assert from_table(Settings, write_table(wanted)) == wanted
