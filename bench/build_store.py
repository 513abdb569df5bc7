"""Build a large store in minutes: what a year of mail looks like to `milterctl report`.

    python bench/build_store.py --rows 10000000 sqlite:////var/tmp/10m.sqlite
    python bench/build_store.py --rows 10000000 'postgresql://gatepost@/bench?host=/run/postgresql'

The same number of rows gives the same store, whenever and wherever it is built: every value is
computed from the message's number. The tables are filled by the database itself, sums included,
so that the store is what the recorder would have made of the same messages (`--check` counts a
sample anew). A tenth of all mail is from one domain, `d0.example`; the rest is spread over one
domain for every fifty messages, `d1.example` and on, a fifth of them with a subdomain for the
envelope. Every thousandth message hits a trap.
"""

import argparse
import math
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from gatepost_policy import store
from gatepost_policy.ingest import deltas
from gatepost_policy.store import migrate, partitions
from gatepost_policy.store.whole_schema import Base

YEAR = 365 * 86_400
END = 1_790_000_000
START = END - YEAR
STEP = 500_000
TABLES = ("message", "recipient", "signature", "message_domain", "domain_day", "domain_host",
          "identity", "dkim_key")  # fmt: skip

# Everything about message i. Knuth's multiplicative hash scatters it; both databases agree on
# integer arithmetic below 2**63. d: domain, u: user, h: host of the domain.
FACTS = """
SELECT i, {start} + i * {year}.0 / {rows} AS at, d, k, {base} + i AS id,
  k % 20 AS u, CASE WHEN d = 0 THEN k % 3000 ELSE k % (1 + d % 4) END AS h,
  CASE WHEN k % 5 = 0 THEN 1 ELSE 0 END AS v6,
  CASE WHEN i % 1000 = 7 THEN 1 ELSE 0 END AS trap,
  CASE WHEN k % 10 = 3 THEN 0 ELSE 1 END AS signed,
  CASE WHEN k % 97 = 5 THEN 'fail' ELSE 'pass' END AS result,
  CASE WHEN d % 5 = 4 THEN 1 ELSE 0 END AS sub
FROM (SELECT i, (i * 2654435761) % 4294967296 AS k,
  CASE WHEN i % 10 = 0 THEN 0
       ELSE 1 + (i * 2654435761) % 4294967296 % {domains} END AS d FROM ({numbers}) n) f
"""
NUMBERS = {
    "sqlite": "WITH RECURSIVE c(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM c"
    " WHERE i + 1 < {last}) SELECT i FROM c",
    "postgresql": "SELECT i FROM generate_series(CAST({first} AS bigint), {last} - 1) i",
}
DOMAIN = "'d' || d || '.example'"
HELO = f"'m' || h || '.' || {DOMAIN}"
SENDER = f"'u' || u || CASE WHEN sub = 1 THEN '@b.' ELSE '@' END || {DOMAIN}"
AUTHOR = f"'u' || u || '@' || {DOMAIN}"
# (d * 3000 + h) numbers a client; 10.0.0.0/8 and 2001:db8::/32 have room for all.
CLIENT4 = (
    "'10.' || ((d * 7 + h) / 65536 % 256) || '.' || ((d * 7 + h) / 256 % 256) || '.'"
    " || ((d * 7 + h) % 256)"
)
CLIENT6 = "'2001:db8:' || {hex_d} || ':' || {hex_h} || '::1'"
HEX = {
    "sqlite": ("printf('%x', d % 65536)", "printf('%x', h + 1)"),
    "postgresql": ("to_hex(d % 65536)", "to_hex(h + 1)"),
}

FILL = {
    "message": (
        "id, at, learned, source, stage, queue_id, direction, family, prefix, address, client_name,"
        " helo, sender, sender_key, header_from, from_key, size, message_id, action, reason,"
        " relay, traps",
        f"id, at, at + 1, 'milter', 'end', 'Q' || i, 'inbound',"
        " CASE WHEN v6 = 1 THEN 'ipv6' ELSE 'ipv4' END,"
        " CASE WHEN v6 = 1 THEN substr({c6}, 1, length({c6}) - 1) || '/64' ELSE {c4} || '/32' END,"
        " CASE WHEN v6 = 1 THEN {c6} ELSE {c4} END,"
        f" {HELO}, {HELO}, {SENDER}, {SENDER}, {AUTHOR}, {AUTHOR}, 2000 + k % 50000,"
        f" '<' || i || '@' || {DOMAIN} || '>',"
        " CASE WHEN trap = 1 THEN 'reject' ELSE 'accept' END,"
        " CASE WHEN trap = 1 THEN 'trap' ELSE 'no-bad-signal' END, {false}, trap",
    ),
    "recipient": (
        "message_id, position, address, trap_key, trap, accepted",
        "id, 0, CASE WHEN trap = 1 THEN 'trap' || (k % 100) || '@home.example'"
        " ELSE 'user' || (k % 5000) || '@home.example' END,"
        " CASE WHEN trap = 1 THEN 'trap' || (k % 100) || '@home.example'"
        " ELSE 'user' || (k % 5000) || '@home.example' END,"
        " CASE WHEN trap = 1 THEN {true} ELSE {false} END, {true}",
    ),
}
SIGNATURE = (
    "message_id, position, domain, selector, algorithm, canonicalization, key_bits, crypto, result",
    f"id, 0, {DOMAIN}, 's1', 'rsa-sha256', 'relaxed/relaxed', 2048, result, result",
)
# SQLite's cast cuts, PostgreSQL's rounds.
DAY = {"sqlite": "CAST(at / 86400 AS bigint)", "postgresql": "floor(at / 86400)"}


def fill(engine: Engine, rows: int) -> None:
    """Every table, in pieces that say how far they are."""
    dialect = engine.dialect.name
    domains = max(1, rows // 50)
    # Made at the end, in one go: entry by entry in random order they would take most of the time.
    scattered = [
        index
        for table in ("message", "recipient")
        for index in sorted(Base.metadata.tables[table].indexes, key=lambda i: str(i.name))
    ]
    with store.writing(engine) as connection:
        for index in scattered:
            index.drop(connection)
    for first, last, base in pieces(rows, dialect):
        partitions.prepare(engine, START + (first + 0.5) * YEAR / rows)
        facts = FACTS.format(
            start=START, year=YEAR, rows=rows, base=base, domains=domains,
            numbers=NUMBERS[dialect].format(first=first, last=last),
        )  # fmt: skip
        with store.writing(engine) as connection:
            speed_up(connection)
            for table, (columns, values) in FILL.items():
                run(connection, f"INSERT INTO {table} ({columns}) SELECT {values} FROM ({facts}) x")
            columns, values = SIGNATURE
            run(
                connection,
                f"INSERT INTO signature ({columns}) SELECT {values} FROM ({facts}) x"
                " WHERE signed = 1",
            )
        say(f"{last * 100 // rows} % of the messages")
    for index in scattered:
        with store.writing(engine) as connection:
            speed_up(connection)
            index.create(connection)
        say(f"index {index.name}")
    keys_and_sums(engine)


def pieces(rows: int, dialect: str) -> list[tuple[int, int, int]]:
    """(first, last, what to add to make an id): ends at months, where PostgreSQL's ids jump."""
    found: list[tuple[int, int, int]] = []
    first = 0
    while first < rows:
        month = partitions.month_of(START + first * YEAR / rows + 1)
        end = datetime((month + 1) // 12, (month + 1) % 12 + 1, 1, tzinfo=UTC).timestamp()
        inside = math.ceil((end - 1 - START) * rows / YEAR)
        last = min(first + STEP, inside, rows)
        base = partitions.first_id(month) + 1 if dialect == "postgresql" else 1
        found.append((first, last, base))
        first = last
    return found


def keys_and_sums(engine: Engine) -> None:
    """What follows from the messages, in the order of its primary key: the fastest way in."""
    day = DAY[engine.dialect.name]
    views = f"""
        SELECT m.id AS id, m.at AS at, {day} AS day, family, m.traps AS traps, prefix, address,
          client_name, sender_key, from_key, s.result AS result,
          substr(from_key, instr_at + 1) AS author_domain,
          substr(sender_key, sender_at + 1) AS sender_domain
        FROM (SELECT message.*, {position("from_key", engine)} AS instr_at,
                     {position("sender_key", engine)} AS sender_at FROM message) m
        LEFT JOIN signature s ON s.message_id = m.id
    """
    with engine.connect() as bare:
        if engine.dialect.name == "sqlite":
            # Outside of a transaction: the temporary table would not fit into memory.
            bare.connection.cursor().execute("PRAGMA temp_store = FILE")
        connection = bare.execution_options(gatepost_writing=True)
        with connection.begin():
            speed_up(connection)
            # The author's domain is d<N>.example, the sender's the same or b.d<N>.example.
            back = "'example.' || substr(author_domain, 1, length(author_domain) - 8) || '.'"
            local = "substr(sender_key, 1, length(sender_key) - length(sender_domain) - 1)"
            sub = "sender_domain <> author_domain"
            run(
                connection,
                f"""CREATE TEMPORARY TABLE name AS
                SELECT fact.*, {back} AS back, {local} AS local, {sub} AS sub
                FROM ({views}) fact""",
            )
            say("facts")
            run(
                connection,
                """INSERT INTO message_domain (reversed, at, message_id, shared)
                SELECT * FROM (
                  SELECT back || '@' || local AS reversed, at, id, 0 AS shared FROM name
                  UNION ALL
                  SELECT back || 'b.@' || local, at, id, length(back) FROM name WHERE sub
                ) x ORDER BY 1, 2, 3""",
            )
            say("message_domain")
            both = """(SELECT name.*, back AS reversed, 0 AS shared FROM name
                UNION ALL SELECT name.*, '', 0 FROM name
                UNION ALL SELECT name.*, back || 'b.', length(back) FROM name WHERE sub)"""
            counts = ", ".join(
                f"sum(CASE WHEN result = '{r}' THEN 1 ELSE 0 END)" for r in deltas.RESULTS[:-1]
            )
            results = ", ".join(f"dkim_{r}" for r in deltas.RESULTS)
            run(
                connection,
                f"""INSERT INTO domain_day (reversed, day, family, shared, messages, trap_messages,
                  trap_hits, first_at, last_at, {results})
                SELECT reversed, day, family, shared, count(*), sum(traps), sum(traps), min(at),
                  max(at), {counts}, sum(CASE WHEN result IS NULL THEN 1 ELSE 0 END)
                FROM {both} x GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4""",
            )
            say("domain_day")
            run(
                connection,
                f"""INSERT INTO domain_host
                  (reversed, host, shared, family, name, messages, last_at)
                SELECT reversed, address, shared, family, max(client_name), count(*), max(at)
                FROM {both} x GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3""",
            )
            say("domain_host")
            false = "0" if engine.dialect.name == "sqlite" else "false"
            for kind, value, reversed_, where in (
                ("dkim", "author_domain", "back", "WHERE result = 'pass'"),
                ("from-domain", "author_domain", "back", ""),
                ("prefix", "prefix", "NULL", ""),
                ("sender", "sender_key", "CASE WHEN sub THEN back || 'b.' ELSE back END", ""),
                ("sender-domain", "sender_domain",
                 "CASE WHEN sub THEN back || 'b.' ELSE back END", ""),
            ):  # fmt: skip
                run(
                    connection,
                    f"""INSERT INTO identity (kind, value, reversed, first_seen, last_seen, learned,
                      messages, trap_messages, days, ipv4, ipv6, repeat)
                    SELECT '{kind}', {value}, max({reversed_}), min(at), max(at), max(at) + 1,
                      count(*), sum(traps), count(DISTINCT day),
                      sum(CASE WHEN family = 'ipv4' THEN 1 ELSE 0 END),
                      sum(CASE WHEN family = 'ipv6' THEN 1 ELSE 0 END), {false}
                    FROM name {where} GROUP BY {value} ORDER BY {value}""",
                )
                say(f"identity: {kind}")
            run(
                connection,
                """INSERT INTO dkim_key (reversed, selector, domain, algorithm, key_bits,
                  first_seen, last_seen, learned, messages)
                SELECT back, 's1', max(author_domain), 'rsa-sha256', 2048, min(at), max(at),
                  max(at) + 1, count(*)
                FROM name WHERE result = 'pass' GROUP BY back ORDER BY back""",
            )
            run(connection, "DROP TABLE name")
            if engine.dialect.name == "sqlite":
                run(
                    connection,
                    "INSERT INTO revision (topic, number) SELECT 'message', max(id) FROM message"
                    " WHERE true ON CONFLICT (topic) DO UPDATE SET number = excluded.number",
                )
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                "SELECT setval('message_seq', (SELECT count(*) FROM message))"
            )
            connection.commit()
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
        else:
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def position(column: str, engine: Engine) -> str:
    """Where the @ of an address is."""
    if engine.dialect.name == "sqlite":
        return f"instr({column}, '@')"
    return f"strpos({column}, '@')"


def run(connection: Connection, sql: str) -> None:
    """One statement, with the dialect's own words filled in."""
    dialect = connection.dialect.name
    false, true = ("0", "1") if dialect == "sqlite" else ("false", "true")
    hex_d, hex_h = HEX[dialect]
    six = CLIENT6.format(hex_d=hex_d, hex_h=hex_h)
    for word, text in (("{c4}", CLIENT4), ("{c6}", six), ("{false}", false), ("{true}", true)):
        sql = sql.replace(word, f"({text})" if word.startswith("{c") else text)
    if dialect == "postgresql":
        sql = sql.replace("%", "%%")
    connection.exec_driver_sql(sql)


def speed_up(connection: Connection) -> None:
    """A store that can be built again needs no care for power cuts while it is built."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        connection.exec_driver_sql("SET LOCAL work_mem = '512MB'")


def check(engine: Engine) -> None:
    """Count some domains anew from their message rows, as the recorder would have."""
    from gatepost_policy.ingest import rows

    for number in (1, 4, 9, 77):
        back = f"example.d{number}."
        with store.reading(engine) as connection:
            ids = connection.exec_driver_sql(
                "SELECT message_id FROM message_domain WHERE reversed >= "
                f"'{back}' AND reversed < '{back[:-1]}/'"
            ).scalars().all()  # fmt: skip
            found = rows.load(connection, sorted(set(ids)))
            sums = deltas.Sums()
            keys = set()
            for row in found.values():
                own, names = row.keys()
                keys |= {(k, row.id, s) for k, s in own}
                sums.add(row, names)
            for sql, want in (
                ("SELECT reversed, message_id, shared FROM message_domain", keys),
                (
                    "SELECT reversed, day, family, shared, messages, trap_hits, dkim_pass,"
                    " dkim_none FROM domain_day",
                    {
                        (*k, d.messages, d.trap_hits, d.dkim_pass, d.dkim_none)
                        for k, d in sums.days.items()
                        if k.reversed
                    },
                ),
                (
                    "SELECT reversed, host, shared, family, messages FROM domain_host",
                    {(*k, h.family, h.messages) for k, h in sums.hosts.items() if k.reversed},
                ),
            ):
                got = {
                    tuple(r)
                    for r in connection.exec_driver_sql(
                        f"{sql} WHERE reversed >= '{back}' AND reversed < '{back[:-1]}/'"
                    )
                }
                assert got == want, (sql, sorted(got - want)[:3], sorted(want - got)[:3])
    say("checked")


begun = time.monotonic()


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"{time.monotonic() - begun:7.1f} s  {what}", file=sys.stderr, flush=True)


def build(url: str, rows: int) -> Engine:
    """A new store at `url` with `rows` messages."""
    scheme = url.partition("://")[0]
    if scheme in ("postgresql", "postgres"):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    if url.startswith("sqlite:///"):
        for end in ("", "-wal", "-shm", ".migrate"):
            Path(url.removeprefix("sqlite:///") + end).unlink(missing_ok=True)
    engine = store.open_url(url, ensure=False)
    migrate.upgrade(engine)
    fill(engine, rows)
    return engine


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="sqlite:///PATH (replaced) or a PostgreSQL URL (empty)")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--check", action="store_true", help="count a sample anew")
    options = parser.parse_args()
    engine = build(options.url, options.rows)
    say("built")
    if options.check:
        check(engine)
    engine.dispose()


if __name__ == "__main__":
    main()
