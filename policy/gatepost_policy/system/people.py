"""The person who runs a command."""

import os
import pwd
from collections.abc import Mapping


def who(environ: Mapping[str, str] = os.environ) -> str:
    """The login of the user who runs this command (through sudo: who called sudo); the user id as
    text where it has no name."""
    asked = environ.get("SUDO_USER")
    if asked:
        return asked
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
