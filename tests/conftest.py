"""Fixtures of all tests; each area keeps its own in a `fix_*` module, named here."""

pytest_plugins: list[str] = [
    "fix_mta",
    "fix_store",
    "fix_milter",
    "fix_report",
    "fix_harness",
    "fix_replay",
]
