"""The values of a row have the columns' names, and go to a statement in the columns' order."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import AT, message, signature
from gatepost_policy import ingest, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import rows
from gatepost_policy.store.schema import Base
from gatepost_policy.store.tables import Message, MessageRecipient, MessageSignature


@pytest.mark.parametrize(
    ("row", "table", "values"),
    [
        (rows.MessageRow, Message, rows.message_values),
        (rows.RecipientRow, MessageRecipient, rows.recipient_values),
        (rows.SignatureRow, MessageSignature, rows.signature_values),
    ],
)
def test_fields_are_the_columns(
    row: type[Any], table: type[Base], values: Callable[[Any], tuple[str, ...]]
) -> None:
    columns = [column.name for column in table.__table__.columns]
    names = {field.name for field in fields(row)}
    # Which message, and which place in it, a row learns when it is written.
    assert names | {"message_id", "position"} == {*columns, "message_id", "position"}
    one = row(**{name: name for name in names})
    assert list(values(one)) == [name for name in columns if name in names]


def test_a_record_sets_every_field() -> None:
    """`read` sets fields by name on a row without values: none may be forgotten."""
    row = rows.read(message(1, signatures=(signature(),), traps=("trap@home.example",)), AT)
    assert len(rows.message_values(row.message)) == len(rows.MESSAGE_COLUMNS)
    assert len(rows.signature_values(row.signatures[0])) == len(rows.SIGNATURE_COLUMNS)
    del row.message.helo
    with pytest.raises(AttributeError):
        rows.message_values(row.message)


def test_what_is_stored_is_what_was_read(any_settings: Settings, any_engine: Engine) -> None:
    data = message(1, signatures=(signature(), signature("b.example", flags=("testing-key",))))
    with store.writing(any_engine) as connection:
        ingest.ingest(connection, [data], any_settings, AT)
    with store.reading(any_engine) as connection:
        ids = connection.exec_driver_sql("SELECT id FROM message").scalars().all()
        (stored,) = rows.load(connection, ids).values()
    want = rows.read(data, AT)
    want.message.id, want.message.session = stored.message.id, None
    assert rows.columns(stored.message) == rows.columns(want.message)
    assert stored.recipients == want.recipients and stored.signatures == want.signatures
