"""Migration 0002: the policy service's former words for DKIM outcomes become today's."""

import importlib.util
import json
from pathlib import Path

from alembic import command
from sqlalchemy import Engine, text

from fix_store import count, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal.record import read_seen
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.store import migrate


def _words() -> tuple[str, ...]:
    """The words that the migration leaves alone."""
    path = Path(__file__).parents[2] / "migrations" / "versions" / "0002_dkim_reasons.py"
    spec = importlib.util.spec_from_file_location("m0002", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words: tuple[str, ...] = module.WORDS
    return words


WORDS = _words()
# (in a store of 0001, what it is now)
CARRIED = [
    ("body-hash", "body-hash-mismatch"),
    ("signature", "bad-signature"),
    ("key-syntax", "bad-key-record"),
    ("unusable", "unspecified"),
    ("whatever an ACL had set", "unspecified"),
    ("key-unavailable", "key-unavailable"),
    *((word, word) for word in WORDS),
    (None, None),
]


def test_old_words_are_carried_over(any_settings: Settings, any_engine: Engine) -> None:
    signatures = tuple(signature(f"d{n}.example") for n in range(len(CARRIED)))
    recorder.record_batch(any_engine, [message(1, signatures=signatures)], any_settings)
    with store.writing(any_engine) as connection:
        for position, (old, _) in enumerate(CARRIED):
            connection.execute(
                text("UPDATE signature SET reason = :old WHERE position = :position"),
                {"old": old, "position": position},
            )
        # Only this step: what came after it is there already.
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
        command.upgrade(migrate.alembic_config(connection), "0002")
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{migrate.HEAD}'")
    with store.reading(any_engine) as connection:
        got = connection.execute(text("SELECT reason FROM signature ORDER BY position")).scalars()
        assert list(got) == [new for _, new in CARRIED]
    assert count(any_engine, "signature") == len(CARRIED)


def test_a_waiting_record_is_carried_over(any_settings: Settings, any_engine: Engine) -> None:
    """The journal outlives an upgrade: what the release before wrote is taken in by this one."""
    record = message(1, signatures=tuple(signature(f"d{n}.example") for n in range(len(CARRIED))))
    record = json.loads(json.dumps(record))
    for said, (old, _) in zip(record["signatures"], CARRIED, strict=True):
        said["reason"] = old
    want = [new for _, new in CARRIED]
    assert [s.reason for s in read_seen(record).facts.signatures] == want
    assert recorder.record_batch(any_engine, [record], any_settings) == 1
    with store.reading(any_engine) as connection:
        got = connection.execute(text("SELECT reason FROM signature ORDER BY position")).scalars()
        assert list(got) == want


def test_the_migration_has_words_of_today() -> None:
    """Later releases may add words: a store of 0001 cannot hold them."""
    assert set(WORDS) <= set(Why) and {new for _, new in CARRIED if new} <= set(WORDS)
