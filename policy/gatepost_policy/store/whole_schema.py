"""Every table in `Base.metadata`. A report needs two thirds of them: `tables`."""

from gatepost_policy.store import guess_tables as guess_tables
from gatepost_policy.store import import_tables as import_tables
from gatepost_policy.store import notify_tables as notify_tables
from gatepost_policy.store import tables as tables
from gatepost_policy.store.schema import Base as Base
