"""store.url of a server: both notations, checked before use, and no password in any message."""

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from daemons import BIN
from gatepost_policy import config, store
from gatepost_policy.config import ConfigError, server_url
from gatepost_policy.config.settings import Settings, Store

GOOD = {
    "postgresql://gp@db.example/gp": "postgresql+psycopg://gp@db.example/gp",
    "postgres://gp:s%2Fx@db.example:5433/gp?sslmode=require": (
        "postgresql+psycopg://gp:s%2Fx@db.example:5433/gp?sslmode=require"
    ),
    # libpq's own notation of several hosts, twice, and SQLAlchemy's.
    "postgresql://gp@a.example:5432,b.example:5433/gp?target_session_attrs=read-write": (
        "postgresql+psycopg://gp@/gp?host=a.example,b.example&port=5432,5433"
        "&target_session_attrs=read-write"
    ),
    "postgresql://gp@/gp?host=a.example,b.example&port=5432,5433": (
        "postgresql+psycopg://gp@/gp?host=a.example,b.example&port=5432,5433"
    ),
    "postgresql+psycopg://gp@/gp?host=a.example:5432&host=b.example:5433": (
        "postgresql+psycopg://gp@/gp?host=a.example,b.example&port=5432,5433"
    ),
    "postgresql://gp@a.example,b.example:5433/gp": (
        "postgresql+psycopg://gp@/gp?host=a.example,b.example&port=,5433"
    ),
    "postgresql://gp@[::1]:5433,[2001:db8::1]/gp": (
        "postgresql+psycopg://gp@/gp?host=::1,2001:db8::1&port=5433,"
    ),
    "postgresql://gp@/gp?host=::1&port=5433": "postgresql+psycopg://gp@[::1]:5433/gp",
    "postgresql://gp@[fe80::1%25eth0]:5433/gp": (
        "postgresql+psycopg://gp@/gp?host=fe80::1%25eth0&port=5433"
    ),
    "postgresql://gp@%2Frun%2Fpostgresql:5433/gp": (
        "postgresql+psycopg://gp@/gp?host=/run/postgresql&port=5433"
    ),
    # To libpq a + is a +, to SQLAlchemy a blank.
    "postgresql://gp@a/g%2Fp?password=a+b": "postgresql+psycopg://gp@a/g%2Fp?password=a%2Bb",
    "postgresql+psycopg://gp@a/gp?password=a+b": "postgresql+psycopg://gp@a/gp?password=a+b",
    "postgresql://gp@[2001:db8::1]:5433/gp": "postgresql+psycopg://gp@[2001:db8::1]:5433/gp",
    "postgresql://gp@/gp?host=/run/postgresql": (
        "postgresql+psycopg://gp@/gp?host=/run/postgresql"
    ),
    "postgresql:///gp": "postgresql+psycopg:///gp",
}
BAD = (
    "host=127.0.0.1 port=24499 password=S3CRET",
    "dbname=gp password = S3CRET",
    " password='S3C RET' service=gp",
    "postgresql://gp:S3C/RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3C#RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3C%RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3C@RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3C?RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3C RET@127.0.0.1:24499/gp",
    "postgresql://gp:S3CRET@127.0.0.1:port/gp",
    "postgresql://gp:S3CRET@127.0.0.1:0/gp",
    "postgresql://gp:S3CRET@127.0.0.1:65536/gp",
    "postgresql://gp:S3CRET@127.0.0.1:/gp",
    "postgresql://gp:S3CRET@a:1,b:2x/gp",
    "postgresql://gp:S3CRET@/gp?host=a,b,c&port=1,2",
    "postgresql://gp:S3CRET@a/gp?host=b",
    "postgresql://gp@a/gp?pasword=S3CRET",
    "postgresql://gp@a/gp?S3CRET",
    "postgresql://gp:S3CRET@a/gp/gp",
    "postgresql:/gp:S3CRET@h/db",
    "postgresql://gp:%00S3CRET@h/db",
    "postgresql://gp:S3CRET@a..example/db",
    f"postgresql://gp:S3CRET@{'a' * 64}.example/db",
    "postgresql://gp:S3CRET@[::1::2]/db",
    "postgresql://gp:S3CRET@::1/db",
    "sqlite://u:S3CRET@h/db",
    "mysql://u:S3CRET@h/db",
    "S3CRET@h/db",
)


@pytest.mark.parametrize("url", GOOD)
def test_understood(url: str) -> None:
    settings = Settings(store=Store(url=url, read_url=url))
    assert config.store_url(settings) == config.read_url(settings) == GOOD[url]
    # What comes out is understood as well: `replay` hands it to its own milter.
    assert server_url.parse(GOOD[url]).sqlalchemy() == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_refused_without_a_word_of_the_password(tmp_path: Path, url: str) -> None:
    for key in ("url", "read_url"):
        path = tmp_path / "gatepost.toml"
        path.write_text(f'[store]\n{key} = "{url}"\n')
        with pytest.raises(ConfigError) as caught:
            config.load(path)
        line = str(caught.value)
        assert f"store.{key}: want " in line
        assert "S3C" not in line and "RET" not in line


SECRETS = (
    "postgresql://gp:S3CRET@127.0.0.1:9/gp",
    "postgresql://gp@127.0.0.1:9/gp?password=S3CRET",
    "postgresql://gp@127.0.0.1:9/gp?sslpassword=S3CRET&sslmode=disable",
    "postgresql://gp:S3CRET@/gp?host=127.0.0.1:9&host=127.0.0.1:9&target_session_attrs=read-write",
    "postgresql://gp:S3CRET@127.0.0.1:9,127.0.0.1:9/gp?target_session_attrs=read-write",
    "postgresql://gp:S3CRET@127.0.0.1:9/g%2Fp",
)


@pytest.mark.parametrize("url", SECRETS)
def test_a_store_is_named_without_its_password(url: str) -> None:
    settings = Settings(store=Store(url=url))
    with pytest.raises(store.StoreError) as caught:
        store.open_engine(settings)
    assert "S3C" not in str(caught.value)
    assert "postgresql://gp@127.0.0.1:9" in str(caught.value)
    assert server_url.parse(url).has_secret


LIBPQ = {
    "postgresql://gp@[::1]:5433,a,/run:7/gp": ("::1,a,/run", "5433,,7"),
    "postgresql://gp@[fe80::1%25eth0]/gp": ("fe80::1%eth0", None),
    "postgresql://gp@%2Frun%2Fpg:5433/gp": ("/run/pg", "5433"),
    "postgresql://gp@/gp?host=::1,a&port=5433": ("::1,a", "5433,5433"),
}


@pytest.mark.parametrize("url", LIBPQ)
def test_libpq_gets_the_hosts_as_written(url: str) -> None:
    engine = create_engine(
        config.store_url(Settings(store=Store(url=url.replace(",/run", ",%2Frun"))))
    )
    _, options = engine.dialect.create_connect_args(engine.url)
    assert (options["host"], options.get("port")) == LIBPQ[url]
    assert store.name(engine).startswith("store postgresql://gp@")


def test_commands_say_it_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_text(f'[store]\nurl = "{SECRETS[1]}"\njournal = "{tmp_path}/journal"\n')
    done = subprocess.run(
        [BIN / "milterctl", "--config", path, "trap", "list"], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "S3C" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
