"""The notifier: each message to each address of its list, through apprise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metricwatch.api import ConfigError, Notification, Notifier, Secret, TemporaryError
from metricwatch_apprise.body import Format, body_of, title_of
from metricwatch_apprise.silence import silence

if TYPE_CHECKING:
    from apprise import AppriseAttachment, NotifyBase, NotifyType

_LONGEST_TIMEOUT = 600.0
_MOST_PICTURES = 4
_SHORT = 1000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppriseOptions:
    """url is one address of https://appriseit.com/services/, or several with white space between them.

    body_format is what the body is written in; apprise turns it into what each service wants. timeout is in seconds,
    to connect and to wait for an answer, where the address itself says nothing else (rto, cto).
    """

    url: Secret
    body_format: Format = "text"
    timeout: float = 10.0

    def __post_init__(self) -> None:
        """Raises ConfigError where nothing could be sent. Quotes no address."""
        if not self.url.reveal().split():
            raise ConfigError("url is empty: write at least one address of apprise, such as discord://…")
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise ConfigError(f"timeout must be above 0 and at most {_LONGEST_TIMEOUT:g} seconds, not {self.timeout:g}")


class AppriseNotifier(Notifier):
    """Sends to all addresses, one after the other. apprise names no reasons, so every failure is tried again later.

    Addresses that have taken a message are left out when it is tried again, as long as the daemon lives: after a
    restart they may get it twice.
    """

    Options = AppriseOptions
    takes_pictures = True

    def __init__(self, options: AppriseOptions) -> None:
        """Raises ConfigError where apprise cannot use an address, with its number in the list."""
        self._format = options.body_format
        self._services = [
            _service(address, position, options.timeout)
            for position, address in enumerate(options.url.reveal().split(), start=1)
        ]
        # The message that some have not taken yet, and those that have.
        self._underway: tuple[int, str] | None = None
        self._taken: set[int] = set()

    def send(self, notification: Notification) -> None:
        """Send to every address that has not taken this message yet. Raises TemporaryError where one does not."""
        this = (notification.id, notification.created_at.isoformat())
        if this != self._underway:
            self._underway, self._taken = this, set()
        missing = [index for index in range(len(self._services)) if index not in self._taken]
        failed = []
        with silence():
            for index in missing:
                if self._sent(self._services[index], notification):
                    self._taken.add(index)
                else:
                    failed.append(index)
        if failed:
            names = ", ".join(f"{self._services[index].service_name} (number {index + 1})" for index in failed)
            raise TemporaryError(
                f"apprise: {len(failed)} of {len(self._services)} addresses did not take the message: {names}; apprise"
                " names no reason. They are asked again, those that took it are not"
            )
        self._underway = None

    def _sent(self, service: NotifyBase, notification: Notification) -> bool:
        pictures = _pictures(notification) if service.attachment_support else None
        try:
            return bool(
                service.notify(
                    title=title_of(notification),
                    body=body_of(notification, self._format),
                    body_format=self._format,
                    notify_type=_type(notification),
                    attach=pictures,
                )
            )
        except Exception:  # noqa: BLE001 - what a hundred services raise; the text may name the address
            return False


def _service(address: str, position: int, timeout: float) -> NotifyBase:
    """The service that an address names. No network traffic yet."""
    with silence():
        import apprise

        asset = apprise.AppriseAsset(
            app_id="metricwatch", app_desc="metricwatch", app_url="", async_mode=False, secure_logging=True
        )
        made = apprise.Apprise.instantiate(address, asset=asset)
    if made is None:
        raise ConfigError(
            f"url: apprise cannot use address number {position}{_scheme(address)}; `apprise --dry-run` on the command"
            " line says more, and https://appriseit.com/services/ how each service is written"
        )
    if not re.search(r"(?i)[?&]rto=", address):
        made.socket_read_timeout = timeout
    if not re.search(r"(?i)[?&]cto=", address):
        made.socket_connect_timeout = timeout
    if not re.search(r"(?i)[?&]overflow=", address):
        # What is too long is refused otherwise. A text message to a telephone is not worth ten of them.
        short = made.body_maxlen < _SHORT
        made.overflow_mode = apprise.OverflowMode.TRUNCATE if short else apprise.OverflowMode.SPLIT
    return made


def _scheme(address: str) -> str:
    """The service's short name where apprise has one such: anything else may be a secret."""
    from apprise.manager_plugins import NotificationManager

    found = re.match(r"([a-z0-9]{2,16})://", address)
    known = NotificationManager()  # type: ignore[no-untyped-call]
    return f" ({found[1]}://)" if found and found[1] in known else ""


def _type(notification: Notification) -> NotifyType:
    from apprise import NotifyType

    if notification.event in {"test", "digest"}:
        return NotifyType.INFO
    if notification.event == "resolved":
        return NotifyType.SUCCESS
    grave = {"critical": NotifyType.FAILURE, "warning": NotifyType.WARNING, "info": NotifyType.INFO}
    return grave[notification.alert.severity]


def _pictures(notification: Notification) -> AppriseAttachment | None:
    """The curves of the gravest alerts, from memory. What is no PNG is left out."""
    from apprise import AppriseAttachment
    from apprise.attachment.memory import AttachMemory

    shown = [
        AttachMemory(  # type: ignore[no-untyped-call]
            content=notice.picture,
            name=re.sub(r"[^A-Za-z0-9_.-]", "_", notice.alert.metric)[:60] + f"-{number}.png",
            mimetype="image/png",
        )
        for number, notice in enumerate(notification.notices, start=1)
        if notice.picture is not None and notice.picture.startswith(_PNG)
    ]
    return AppriseAttachment(shown[:_MOST_PICTURES]) if shown else None


__all__ = ["AppriseNotifier", "AppriseOptions"]
