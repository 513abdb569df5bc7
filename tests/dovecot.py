"""A Dovecot of one protocol in a folder of its own: the lines of the documentation and what else it
needs, in the words of the release that was unpacked (2.4 has others than 2.3)."""

import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mta_unpack
from neighbours import program

_OLD = """\
import_environment = LD_LIBRARY_PATH
protocols = {protocol}
disable_plaintext_auth = no
passdb {{
  driver = static
  args = {password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/home/%n
}}
mail_location = maildir:{folder}/home/%n/Maildir
"""
_OLD_TLS = "ssl = yes\nssl_cert = <{tls}\nssl_key = <{tls}\n"
_NEW = """\
import_environment {{
  LD_LIBRARY_PATH = %{{env:LD_LIBRARY_PATH}}
}}
protocols {{
  {protocol} = yes
}}
auth_allow_cleartext = yes
passdb static {{
  {password}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {gid}
    home = {folder}/home/%{{user | username}}
  }}
}}
mail_driver = maildir
mail_path = {folder}/home/%{{user | username}}/Maildir
"""
_NEW_TLS = "ssl = yes\nssl_server_cert_file = {tls}\nssl_server_key_file = {tls}\n"


def version(files: mta_unpack.Programs) -> tuple[int, int]:
    """Major and minor version."""
    done = subprocess.run(
        [files.root / "usr/sbin/dovecot", "--version"],
        env=files.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.match(r"(\d+)\.(\d+)", done.stdout)
    assert found, done
    return int(found[1]), int(found[2])


@contextmanager
def running(
    files: mta_unpack.Programs,
    folder: Path,
    protocol: str,
    port: int,
    lines: str,
    *,
    password: str | None = None,
    tls: Path | None = None,
) -> Iterator[None]:
    """Dovecot with `lines` of the documentation, from when `port` greets until the end.

    `password`: of every user; None: none is asked for. `tls`: certificate and key. Its log is
    `folder`/dovecot.log, a user's home `folder`/home/NAME.
    """
    nobody = pwd.getpwnam("nobody")
    new = version(files) >= (2, 4)
    words = {
        "protocol": protocol,
        "folder": folder,
        "uid": nobody.pw_uid,
        "gid": nobody.pw_gid,
        "tls": tls,
        "password": (f"passdb_static_password = {password}" if new else f"password={password}")
        if password
        else ("fields {\n    nopassword = yes\n  }" if new else "nopassword=y"),
    }
    text = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n" if new else ""
    text += (_NEW if new else _OLD).format(**words)
    text += "ssl = no\n" if tls is None else (_NEW_TLS if new else _OLD_TLS).format(**words)
    service = "submission-login" if protocol == "submission" else protocol
    tls_port = "  inet_listener submissions {\n    port = 0\n  }\n" if service != protocol else ""
    text += f"""\
base_dir = {folder}/base
state_dir = {folder}/state
log_path = {folder}/dovecot.log
listen = 127.0.0.1
hostname = mx.local.test
postmaster_address = postmaster@local.test
first_valid_uid = 1
service {service} {{
  inet_listener {protocol} {{
    port = {port}
  }}
{tls_port if new else ""}  chroot =
}}
{lines}
"""
    config = folder / "dovecot.conf"
    config.write_text(text)
    # Dovecot looks for its own programs in /usr: there they are, in a namespace of its own.
    put = f"mount -t overlay overlay -o lowerdir={files.root}/usr:/usr /usr"
    command: list[str | Path] = [
        "unshare", "--mount", "sh", "-ec", f'{put}; exec /usr/sbin/dovecot -F -c "$0"', config
    ]  # fmt: skip
    with mta_unpack.users("dovecot", "dovenull"), program(command, files, folder / "output", port):
        yield
