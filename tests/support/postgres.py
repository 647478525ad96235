"""Debian's own PostgreSQL server, in a folder of its own, on a Unix socket and on the loopback interface."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

USER = "metricwatch"
PASSWORD = "hunter2-of-the-database"
NO_POSTGRES = "no PostgreSQL on this machine (Debian: apt-get install postgresql)"
# A test may throw its data away: no waiting for disks. The sizes are small because many things run beside it.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "32MB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A server that answers; folder holds its Unix socket, its data and its log."""

    folder: Path
    port: int

    def uri(self, database: str, *, password: str = PASSWORD) -> str:
        # Named: of itself SQLAlchemy 2.1 takes psycopg, older ones psycopg2.
        return f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """An empty database; returns its address, with user and password."""
        import psycopg2

        connection = psycopg2.connect(self.uri("postgres").replace("+psycopg2", ""))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{database}"')
        finally:
            connection.close()
        return self.uri(database)


def installed() -> Path | None:
    """The folder of the newest PostgreSQL's programs, or None."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: [int(part) for part in path.parts[4].split(".")],
    )
    return found[-1].parent if found else None


@contextmanager
def postgres(*, deadline: float = 60.0) -> Iterator[Postgres]:
    """Make and start a server, and stop and remove it at the end. Passwords are asked for on every connection.

    Raises RuntimeError where it is not installed (see installed()), and with the end of the log when it does not
    answer within deadline seconds.
    """
    programs = installed()
    if programs is None:
        raise RuntimeError(NO_POSTGRES)
    # Not pytest's folder: that is its owner's alone, and a socket's path may have 107 letters only.
    folder = Path(tempfile.mkdtemp(prefix="mw-postgres-"))
    port = free_port()
    process = None
    try:
        (folder / "password").write_text(PASSWORD)
        as_whom = _unprivileged(folder)
        log = folder / "log"
        with log.open("wb") as output:
            data = str(folder / "data")
            words = ["-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"]
            words += ["--no-sync", "--no-locale", "-E", "UTF8"]
            subprocess.run(
                [programs / "initdb", *words], cwd=folder, stdout=output, stderr=output, check=True, **as_whom
            )
            words = ["-D", data, "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
            words += [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
            process = subprocess.Popen(
                [programs / "postgres", *words],
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **as_whom,
            )
        _wait(programs, folder, process, port, deadline)
        yield Postgres(folder=folder, port=port)
    finally:
        if process is not None:
            # "Fast": it ends its sessions itself, and its children with them.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, object]:
    """As whom the server runs: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return {}
    names = {each.pw_name: each for each in pwd.getpwall()}
    person = names.get("postgres") or names["nobody"]
    for path in (folder, folder / "password"):
        os.chown(path, person.pw_uid, person.pw_gid)
    return {"user": person.pw_uid, "group": person.pw_gid, "extra_groups": []}


def _wait(programs: Path, folder: Path, process: subprocess.Popen[bytes], port: int, deadline: float) -> None:
    end = time.monotonic() + deadline
    while time.monotonic() < end and process.poll() is None:
        ready = subprocess.run(
            [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], cwd=folder, check=False
        )
        if ready.returncode == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"postgres does not answer; its log ends:\n{(folder / 'log').read_text()[-2000:]}")
