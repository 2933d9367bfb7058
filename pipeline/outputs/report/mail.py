"""Mail: the report as an attachment, with its key figures, through any SMTP server.

A mail is handed over once, and it is told whether the server took it. What a server answers is
repeated only where it cannot contain a secret.
"""

from __future__ import annotations

import smtplib
import ssl
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, getaddresses, make_msgid
from ipaddress import ip_address
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError, MailRefused

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.config import SmtpSettings

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Post:
    """Where mail goes, and how.

    Attributes:
        host: the mail server.
        port: its port.
        security: starttls, tls or none.
        user: name to log in with; None for no login.
        password: its password.
        sender: address it is from.
        recipients: addresses it is for.
    """

    host: str
    port: int
    security: str
    user: str | None
    password: str | None = field(repr=False)
    sender: str
    recipients: tuple[str, ...]


def post(smtp: SmtpSettings) -> Post:
    """Return where mail goes, from the settings.

    Raises:
        ConfigurationError: something is missing, or makes no sense. Names the setting.
    """
    for name in ("host", "sender", "recipients"):
        if not getattr(smtp, name):
            message = f"[smtp] {name}: is not set, and a report cannot be mailed without it"
            raise ConfigurationError(message, "email")
    host = smtp.host or ""
    if smtp.security == "none" and not _here(host):
        message = (
            f"[smtp] security: none sends mail, and passwords, readable for everybody; {host} is "
            "another machine, so use starttls or tls"
        )
        raise ConfigurationError(message)
    password = smtp.password.get_secret_value() if smtp.password else None
    for name, given, other in (("password", password, smtp.user), ("user", smtp.user, password)):
        if given and not given.isascii():
            message = f"[smtp] {name}: has letters beyond ASCII, which a login cannot carry"
            raise ConfigurationError(message)
        if other and not given:
            message = f"[smtp] {name}: is not set, and a login needs it"
            raise ConfigurationError(message)
    (sender,) = _addresses("sender", smtp.sender or "", most=1)
    return Post(
        host=host,
        port=smtp.port or _PORTS[smtp.security],
        security=smtp.security,
        user=smtp.user,
        password=password,
        sender=sender,
        recipients=_addresses("recipients", smtp.recipients or ""),
    )


def _addresses(name: str, text: str, most: int | None = None) -> tuple[str, ...]:
    found = tuple(address for _, address in getaddresses([text]))
    message = f"[smtp] {name}: must be {'an address' if most else 'addresses'} as air@example.org"
    if not (found and text.isprintable()) or (most and len(found) > most):
        raise ConfigurationError(message)
    for address in found:
        try:
            parts = Address(addr_spec=address)
        except (MessageError, ValueError, IndexError):
            raise ConfigurationError(message) from None
        if not (parts.username and parts.domain and address.isascii()):
            raise ConfigurationError(message)
    return found


def _here(host: str) -> bool:
    """Tell whether a name is that of this machine, and its mail never leaves it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def compose(  # a mail is made of this much
    to: Post, subject: str, text: str, html: str, name: str, page: bytes, now: datetime
) -> EmailMessage:
    """Return a mail: text and HTML as alternatives, and the page as an attachment."""
    message = EmailMessage(policy=SMTP)
    message["Subject"] = subject
    message["From"] = to.sender
    message["To"] = ", ".join(to.recipients)
    message["Date"] = format_datetime(now)
    message["Message-ID"] = make_msgid(domain=to.sender.rpartition("@")[2])
    # No machine shall answer it.
    message["Auto-Submitted"] = "auto-generated"
    # Not every server passes bytes beyond ASCII on.
    message.set_content(text, cte="quoted-printable")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    message.add_attachment(
        page, maintype="text", subtype="html", filename=name, params={"charset": "utf-8"}
    )
    return message


def send(to: Post, message: EmailMessage) -> None:
    """Hand a mail over to the server.

    Raises:
        MailRefused: it was not taken for all recipients. The message says by whom and why.
    """
    where = f"mail server {to.host}:{to.port}"
    try:
        with _open(to) as server:
            if to.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if to.user:
                server.login(to.user, to.password or "")
            refused = server.send_message(message, to.sender, to.recipients)
    except smtplib.SMTPAuthenticationError as error:
        told = f"{where}: does not accept [smtp] user with [smtp] password ({error.smtp_code})"
        raise MailRefused(told) from None
    except smtplib.SMTPNotSupportedError:
        wanted = "STARTTLS" if to.security == "starttls" else "a login"
        told = f"{where}: does not offer what the settings ask for, {wanted} above all"
        raise MailRefused(told) from None
    except smtplib.SMTPRecipientsRefused as error:
        told = f"{where}: takes no mail for {_refused(error.recipients)}"
        raise MailRefused(told) from None
    except smtplib.SMTPSenderRefused as error:
        told = f"{where}: takes no mail from {to.sender} ({_said(error)})"
        raise MailRefused(told) from None
    except smtplib.SMTPResponseException as error:
        told = f"{where}: did not take the mail ({_said(error)})"
        raise MailRefused(told) from None
    except ssl.SSLCertVerificationError as error:
        told = f"{where}: its certificate is not to be trusted: {error.verify_message}"
        raise MailRefused(told) from None
    except ssl.SSLError as error:
        told = (
            f"{where}: no encrypted connection ({error.reason or error.strerror}); is "
            f"[smtp] security = {to.security} right for this port?"
        )
        raise MailRefused(told) from None
    except smtplib.SMTPException as error:
        told = f"{where}: hung up, or did not speak SMTP ({type(error).__name__})"
        raise MailRefused(told) from None
    except OSError as error:
        told = f"{where}: cannot be reached: {error.strerror or error}"
        raise MailRefused(told) from None
    if refused:
        told = f"{where}: takes no mail for {_refused(refused)}; it took it for the others"
        raise MailRefused(told)


def _open(to: Post) -> smtplib.SMTP:
    if to.security == "tls":
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(to.host, to.port, timeout=_SECONDS, context=context)
    return smtplib.SMTP(to.host, to.port, timeout=_SECONDS)


def _said(error: smtplib.SMTPResponseException) -> str:
    return f"{error.smtp_code} {_words(error.smtp_error)}"


def _refused(found: dict[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{name} ({code} {_words(said)})" for name, (code, said) in found.items())


def _words(said: bytes | str) -> str:
    """Return what a server said, on one short line that is safe to print."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()
