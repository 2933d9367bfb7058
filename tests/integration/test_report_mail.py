"""Reports by mail: to a real SMTP server, over real sockets, with and without encryption."""

from __future__ import annotations

import email
import email.policy
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from pipeline.config import SmtpSettings, load_settings
from pipeline.errors import ConfigurationError, MailRefused
from pipeline.outputs.report import mail
from tests.conftest import Server
from tests.integration.conftest import ARCHIVE_SDS, Site

USER, PASSWORD = "air@example.org", "s3cret-size"
NOW = datetime(2018, 2, 1, 6, 0, tzinfo=UTC)


class Inbox:
    """Takes mail, but for those whose name begins with `nobody`."""

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[str, str]] = []

    def authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=self.logins[-1] == (USER, PASSWORD), handled=False)

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address.startswith("nobody"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        self.taken.append(envelope)
        self.encrypted.append(session.ssl is not None)
        return "250 OK"

    def only(self) -> EmailMessage:
        """Return the one mail that came."""
        (envelope,) = self.taken
        content = envelope.content
        assert isinstance(content, bytes)
        found = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found


@contextmanager
def _serving(inbox: Inbox, **options: Any) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(made)
    return made


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authority is one that this machine trusts, as OpenSSL is told."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def _post(port: int, **changed: Any) -> mail.Post:
    plain = mail.Post(
        *("127.0.0.1", port, "none", None, None, "air@example.org", ("one@example.org",))
    )
    return replace(plain, **changed)


def _message(to: mail.Post) -> EmailMessage:
    page = "<!DOCTYPE html><title>µg/m³</title>".encode()
    return mail.compose(to, "Air: 1 µg", "plain µg", "<p>short µg</p>", "a.html", page, NOW)


# --- what arrives ---------------------------------------------------------------------------------


def test_what_arrives() -> None:
    inbox = Inbox()
    with _serving(inbox) as port:
        to = _post(port, recipients=("one@example.org", "two@example.org"))
        mail.send(to, _message(to))
    (envelope,) = inbox.taken
    assert envelope.mail_from == "air@example.org"
    assert envelope.rcpt_tos == ["one@example.org", "two@example.org"]
    found = inbox.only()
    assert found["Subject"] == "Air: 1 µg"
    assert found["From"] == "air@example.org"
    assert found["To"] == "one@example.org, two@example.org"
    assert found["Date"].datetime == NOW
    assert found["Message-ID"].endswith("@example.org>")
    assert found["Auto-Submitted"] == "auto-generated"
    plain, short = found.get_body(("plain",)), found.get_body(("html",))
    assert plain is not None
    assert short is not None
    assert plain.get_content().strip() == "plain µg"
    assert short.get_content().strip() == "<p>short µg</p>"
    (attached,) = found.iter_attachments()
    assert attached.get_filename() == "a.html"
    assert attached.get_content_type() == "text/html"
    assert attached.get_content() == "<!DOCTYPE html><title>µg/m³</title>"
    # Nothing beyond ASCII is on the wire.
    assert isinstance(envelope.content, bytes)
    assert envelope.content.isascii()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_encrypted_and_logged_in(security: str, context: ssl.SSLContext, trusted: Path) -> None:
    inbox = Inbox()
    # Without encryption, this server takes neither a login nor mail.
    how: dict[str, Any] = (
        {"ssl_context": context}
        if security == "tls"
        else {"tls_context": context, "require_starttls": True}
    )
    with _serving(
        inbox,
        authenticator=inbox.authenticate,
        auth_require_tls=security == "starttls",
        **how,
    ) as port:
        to = _post(port, security=security, user=USER, password=PASSWORD)
        mail.send(to, _message(to))
    assert inbox.only()["To"] == "one@example.org"
    assert inbox.logins == [(USER, PASSWORD)]
    if security == "starttls":
        assert inbox.encrypted == [True]


# --- what goes wrong ------------------------------------------------------------------------------


def _refusal(to: mail.Post) -> str:
    with pytest.raises(MailRefused) as caught:
        mail.send(to, _message(to))
    told = str(caught.value)
    assert told.startswith(f"mail server 127.0.0.1:{to.port}: ")
    assert PASSWORD not in told
    assert PASSWORD not in repr(to)
    assert "\n" not in told
    return told


def test_a_wrong_password(context: ssl.SSLContext, trusted: Path) -> None:
    inbox = Inbox()
    with _serving(inbox, authenticator=inbox.authenticate, tls_context=context) as port:
        told = _refusal(_post(port, security="starttls", user=USER, password="wrong-one"))
    assert "does not accept [smtp] user with [smtp] password (535)" in told
    assert "wrong-one" not in told
    assert inbox.taken == []


def test_a_certificate_that_nobody_vouches_for(context: ssl.SSLContext) -> None:
    inbox = Inbox()
    with _serving(inbox, tls_context=context) as port:
        told = _refusal(_post(port, security="starttls", user=USER, password=PASSWORD))
    assert "its certificate is not to be trusted" in told
    assert inbox.taken == []


def test_a_server_without_starttls_gets_neither_password_nor_mail() -> None:
    inbox = Inbox()
    with _serving(inbox, authenticator=inbox.authenticate, auth_require_tls=False) as port:
        told = _refusal(_post(port, security="starttls", user=USER, password=PASSWORD))
    assert "STARTTLS" in told
    assert (inbox.logins, inbox.taken) == ([], [])


def test_tls_where_the_server_begins_in_plain() -> None:
    with _serving(Inbox()) as port:
        told = _refusal(_post(port, security="tls"))
    assert "is [smtp] security = tls right for this port?" in told


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "cannot be reached: Connection refused" in _refusal(_post(port))


def test_a_server_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        told = _refusal(_post(server.getsockname()[1]))
        thread.join()
    assert "hung up, or did not speak SMTP" in told or "cannot be reached" in told


def test_some_recipients_are_refused_and_the_others_get_it() -> None:
    inbox = Inbox()
    with _serving(inbox) as port:
        told = _refusal(_post(port, recipients=("one@example.org", "nobody@example.org")))
        assert "takes no mail for nobody@example.org (550 no such mailbox)" in told
        assert "it took it for the others" in told
        assert inbox.taken[0].rcpt_tos == ["one@example.org"]
        told = _refusal(_post(port, recipients=("nobody@example.org",)))
        assert told.endswith("takes no mail for nobody@example.org (550 no such mailbox)")
    assert len(inbox.taken) == 1


# --- settings -------------------------------------------------------------------------------------


def _settings(home: Path, **changed: object) -> SmtpSettings:
    given: dict[str, object] = {
        "smtp_host": "mail.example.org",
        "smtp_user": USER,
        "smtp_password": PASSWORD,
        "mail_from": "air@example.org",
        "mail_to": "one@example.org, Two <two@example.org>",
    }
    return load_settings(home, **{**given, **changed}).smtp


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465)])
def test_the_settings_say_where_mail_goes(security: str, port: int, tmp_path: Path) -> None:
    to = mail.post(_settings(tmp_path, smtp_security=security))
    assert (to.host, to.port, to.user, to.password) == ("mail.example.org", port, USER, PASSWORD)
    assert to.recipients == ("one@example.org", "two@example.org")
    assert mail.post(_settings(tmp_path, smtp_port=2525)).port == 2525
    for host in ("localhost", "127.0.0.1", "::1"):
        here = mail.post(_settings(tmp_path, smtp_security="none", smtp_host=host))
        assert (here.host, here.port) == (host, 25)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"smtp_host": None}, "[smtp] host: is not set, and a report cannot be mailed without it"),
        ({"mail_from": None}, "[smtp] sender: is not set"),
        ({"mail_to": None}, "[smtp] recipients: is not set"),
        ({"smtp_user": None}, "[smtp] user: is not set, and a login needs it"),
        ({"smtp_password": None}, "[smtp] password: is not set, and a login needs it"),
        ({"smtp_password": "größe"}, "[smtp] password: has letters beyond ASCII"),
        ({"smtp_security": "none"}, "[smtp] security: none sends mail, and passwords, readable"),
        ({"mail_from": "air"}, "[smtp] sender: must be an address"),
        ({"mail_from": "a@example.org, b@example.org"}, "[smtp] sender: must be an address"),
        ({"mail_to": "one@example.org, "}, "[smtp] recipients: must be addresses"),
        (
            {"mail_to": "a@example.org\nBcc: x@example.org"},
            "[smtp] recipients: must be addresses",
        ),
    ],
)
def test_settings_that_cannot_work(changed: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mail.post(_settings(tmp_path, **changed))
    assert str(caught.value).startswith(told)
    assert PASSWORD not in str(caught.value)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command(site: Site, server: Server) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        own = {f"SOFIA_AIR_{name.upper()}": str(value) for name, value in settings.items()}
        return subprocess.run(
            [str(Path(sys.executable).with_name("sofia-air")), *arguments],
            env={
                **os.environ,
                "SOFIA_AIR_HOME": str(site.settings.home),
                "SOFIA_AIR_DATABASE_URL": server.url(site.one("SELECT current_database()")),
                **own,
            },
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    return run


@pytest.mark.slow
def test_the_command_sends_what_it_wrote(
    site: Site, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    row = "92;SDS011;42;42.689;23.341;2018-01-31T00:02:09;20;;;10;;\n"
    site.load(ARCHIVE_SDS + row)
    inbox = Inbox()
    wanted = {
        "smtp_host": "127.0.0.1",
        "smtp_security": "none",
        "mail_from": "air@example.org",
        "mail_to": "one@example.org",
    }
    with _serving(inbox, authenticator=inbox.authenticate, auth_require_tls=False) as port:
        done = command("report", "--email", smtp_port=port, **wanted)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("sent to one@example.org\n")
        wrong = command(
            *("report", "--day", "2017-01-01", "--email"),
            smtp_port=port,
            smtp_user=USER,
            smtp_password="oh no",
            **wanted,
        )
        assert wrong.returncode == 1
        assert "does not accept [smtp] user" in wrong.stderr
        assert "oh no" not in wrong.stdout + wrong.stderr
    page = site.settings.home / "reports" / "sofia-air-2018-01-31.html"
    found = inbox.only()
    (attached,) = found.iter_attachments()
    assert attached.get_filename() == page.name
    assert attached.get_content() == page.read_text(encoding="utf-8")
    plain = found.get_body(("plain",))
    assert plain is not None
    assert "Sensors that reported: 1" in plain.get_content().splitlines()
    assert "Open Database License (ODbL)." in plain.get_content()
    lacking = command("report", "--email", **{**wanted, "mail_to": ""})
    assert lacking.returncode == 2
    assert "[smtp] recipients: is not set" in lacking.stderr
