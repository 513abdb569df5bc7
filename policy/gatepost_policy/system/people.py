"""Who sits at the terminal."""

import os
import pwd
from collections.abc import Mapping


def who(environ: Mapping[str, str] = os.environ) -> str:
    """The login that runs this command, or that asked sudo to; a number where it has no name."""
    asked = environ.get("SUDO_USER")
    if asked:
        return asked
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
