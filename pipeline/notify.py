"""Notify: tells systemd how the service is doing (sd_notify's protocol, a datagram a message).

Does nothing when not started by systemd with Type=notify.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

_SEND_SECONDS = 1.0


class Notifier:
    """Sends messages to the service manager.

    The address is taken from the environment once, and removed from it so that programs which we
    start do not speak for us.

    Attributes:
        watchdog_seconds: the service is killed when it is silent for longer; None: it is not.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "")
        addressee = os.environ.pop("WATCHDOG_PID", "")
        ours = addressee in {"", str(os.getpid())}
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() and ours else None
        self._petted = 0.0
        self._status = ""

    def ready(self) -> None:
        """Say that the start is over."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in a line what is being done; shown by `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + text.replace("\n", " "))

    def alive(self) -> None:
        """Say that the loop goes round. Called often; sends only as often as is asked for."""
        now = time.monotonic()
        # Several times in the time allowed: systemd wants two at least.
        allowed = self.watchdog_seconds
        if allowed is not None and now - self._petted >= allowed / 4:
            self._petted = now
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the abstract namespace's NUL.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_SECONDS)  # a manager that does not listen must not hold us up
            sender.sendto(message.encode(), address)
