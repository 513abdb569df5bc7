"""What the tests of `milterctl check exim` share: a socket to ask, the program, the codes found."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from exim_instance import EximInstance
from from_table import from_table
from gatepost_milter.doctor import exim as exim_checks
from gatepost_milter.doctor import exim_config
from gatepost_policy.config.settings import Settings
from open_socket import Listener


@contextmanager
def policy_socket() -> Iterator[Path]:
    """A socket that Exim's user may connect to."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-policy-"))
    folder.chmod(0o755)
    listener = Listener(str(folder / "policy.sock"))
    (folder / "policy.sock").chmod(0o666)
    yield folder / "policy.sock"
    listener.close()
    shutil.rmtree(folder)


def settings(policy: Path | int, **more: object) -> Settings:
    """gatepost.toml with a policy service there."""
    listen = f"unix:{policy}" if isinstance(policy, Path) else f"inet:{policy}@127.0.0.1"
    return from_table(Settings, {"policy": {"listen": listen, **more}})


def program(exim: EximInstance) -> Path:
    """Exim with its libraries found, as an installed one would be."""
    path = exim.root / "exim"
    libraries = exim.programs.environment().get("LD_LIBRARY_PATH", "")
    path.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {exim.exim} "$@"\n')
    path.chmod(0o755)
    return path


def codes(exim: EximInstance, policy: Path | int, asked: bool = False) -> set[str]:
    """What `check exim` finds. `asked`: Exim itself is asked too, which takes half a second."""
    live = exim_config.read(exim.config, program(exim))
    live = live if asked else replace(live, called=())
    return {f.code for f in exim_checks.check(live, settings(policy))}
