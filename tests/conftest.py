"""Fixtures of all tests; each area keeps its own in a `fix_*` module, named here."""

from hypothesis import HealthCheck, settings

# No test asserts a duration: a loaded machine is no finding.
settings.register_profile("gatepost", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatepost")

pytest_plugins: list[str] = [
    "fix_tidy",
    "fix_mta",
    "fix_store",
    "fix_cli",
    "fix_milter",
    "fix_report",
    "fix_harness",
    "fix_replay",
    "fix_notify",
]
