"""Addresses: where a PostgreSQL is, as psql takes it, and how a connection to it is made.

An address gets what a long-running service needs. Nothing here ever shows a password.
"""

from __future__ import annotations

import logging
import re
import socket
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipeline import logs
from pipeline.errors import ConfigurationError

__all__ = ["connect", "for_command_line", "keywords", "masked", "prepare"]

log = logs.get("store")

_ON_THE_WAY = 2**20  # bytes
_SCHEMES = {"postgres", "postgresql", "postgresql+psycopg"}

# An address may override each of these.
_DEFAULTS: dict[str, Any] = {
    "fallback_application_name": "sofia-air",
    "connect_timeout": 10,
    # Without these a server that vanished (power, cable, firewall) would hold us for hours: an idle
    # connection is probed after 30 s and given up after three silent probes, unacknowledged data
    # after 60 s.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


def keywords(url: str) -> dict[str, Any]:
    """Return what the driver is to be given to connect to an address.

    libpq itself reads the address, so whatever works with psql works here: sockets
    (`?host=/run/postgresql`), several hosts, `sslmode`, `target_session_attrs`, `.pgpass`, a
    service file, `PG*` variables.

    Raises:
        ConfigurationError: the address is malformed. The message does not repeat it.
    """
    try:
        given = _parse(url)
    except (psycopg.Error, ValueError):
        message = f"database_url: {_complaint(url)}"
        raise ConfigurationError(message) from None
    _keep_off_the_terminal()
    return {**_DEFAULTS, **given}


def connect(given: dict[str, Any]) -> psycopg.Connection[Any]:
    """Open a connection.

    Args:
        given: what `keywords` returned.

    Raises:
        psycopg.Error: it cannot be opened.
    """
    connection: psycopg.Connection[Any] = psycopg.connect(**given)
    try:
        prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: psycopg.Connection[Any]) -> None:
    """Prepare a connection that was just opened."""
    _use_utc(connection)
    _have_more_on_the_way(connection)


def _use_utc(connection: psycopg.Connection[Any]) -> None:
    """Let hours and months be those of UTC, whatever the server's own zone.

    By statement, since some connection poolers refuse a session's settings among the start-up
    options. `synchronous_commit` and the like stay as the administrator wants them.
    """
    if connection.info.parameter_status("TimeZone") != "UTC":
        connection.execute("SET TIME ZONE 'UTC'")
        connection.commit()


def _have_more_on_the_way(connection: psycopg.Connection[Any]) -> None:
    """Let a Unix socket hold more than the system's 208 KiB, as far as the system allows.

    The server gets through that in a few milliseconds, and then waits until Python's other threads
    let the one go on that sends: a twentieth of a load's time. TCP sees to it by itself.
    """
    end = socket.socket(fileno=connection.fileno())
    try:
        if end.family == socket.AF_UNIX:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_THE_WAY)
    finally:
        end.detach()  # it is libpq's to close


class _Told(logging.Handler):
    """Passes on what libraries log, as an event that one has to ask for."""

    def emit(self, record: logging.LogRecord) -> None:
        log.debug("database.driver", logger=record.name, message=record.getMessage())


def _keep_off_the_terminal() -> None:
    """Keep to our own log what is said there of connections that broke: tracebacks, for example.

    What breaks is raised as well, and told in words.
    """
    for name in ("sqlalchemy.pool", "psycopg"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _Told) for handler in logger.handlers):
            logger.addHandler(_Told())
            logger.propagate = False


def _parse(url: str) -> dict[str, str]:
    """Let libpq take the address apart.

    Raises:
        psycopg.Error: libpq cannot read it.
        ValueError: it is not an address, or an unescaped character in the password has made the
            password's rest look like another part.
    """
    scheme, _, rest = url.strip().partition("://")
    if scheme not in _SCHEMES or "\0" in rest:
        raise ValueError
    parts = {key: str(value) for key, value in conninfo_to_dict(f"postgresql://{rest}").items()}
    spilt = "@" in parts.get("host", "") + parts.get("dbname", "") or "?" in parts.get("user", "")
    if spilt or re.fullmatch(r"[0-9,]*", parts.get("port", "")) is None:
        raise ValueError
    return parts


def _complaint(url: str) -> str:
    """Say what is wrong with a malformed address, without repeating a part that may be secret."""
    scheme, _, rest = url.partition("://")
    options = rest.partition("?")[2]
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl"}
    unknown = [name for name, _ in parse_qsl(options) if name not in known]
    # A name is shown only where it cannot be a piece of a password.
    if unknown and scheme in _SCHEMES and re.search("[@:]|pass|secret", options) is None:
        return f"PostgreSQL knows no connection option named {', '.join(unknown)}"
    return (
        "must look like postgresql://user:password@host:5432/name; in a password, write "
        "characters such as @ : / ? # % as percent codes (%40 for @)"
    )


def masked(url: str) -> str:
    """Return the address without its secrets, fit for a log or a screen. Never raises.

    An address that cannot be read is hidden as a whole: its secret could be anywhere.
    """
    try:
        given = _parse(url)
    except (psycopg.Error, ValueError):
        return "postgresql://***"
    # libpq marks its own secrets: * is a password, D is for debugging (keys, among others).
    for option in pq.Conninfo.get_defaults():
        if option.dispchar in {b"*", b"D"} and option.keyword.decode() in given:
            given[option.keyword.decode()] = "***"
    user, password = given.pop("user", ""), given.pop("password", "")
    who = quote(user, safe="") + (f":{password}" if password else "")
    name = quote(given.pop("dbname", ""), safe="")
    hosts = given.get("host", "").split(",")
    ports = given.get("port", "").split(",")
    # Socket folders cannot stand where a host name does; nor can unequal lists.
    if "/" not in given.get("host", "") and len(ports) in {1, len(hosts)}:
        given.pop("host", None), given.pop("port", None)
        ports *= len(hosts) // len(ports)
        hosts = [f"[{host}]" if ":" in host else host for host in hosts]
        where = ",".join(
            f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=True)
        )
    else:
        where = ""
    shown = f"postgresql://{who}@{where}" if who else f"postgresql://{where}"
    options = urlencode(given, safe="/*,", quote_via=quote)
    return shown + (f"/{name}" if name else "") + (f"?{options}" if options else "")


def for_command_line(url: str) -> tuple[str, dict[str, str]]:
    """Return the address for a program's argument, and its password for the environment.

    What stands on a command line is there for every user of the machine to read.
    """
    given = _parse(url)
    password = given.pop("password", None)
    return make_conninfo(**given), {"PGPASSWORD": password} if password else {}
