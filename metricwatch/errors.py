"""One error tree. The type says who must act and whether trying again can help."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar


class MetricwatchError(Exception):
    """Something the user should read: where it happened, what is wrong, what to do next."""

    exit_code: ClassVar[int] = 1


class ConfigError(MetricwatchError):
    """The configuration cannot work as written. Restarting will not help."""

    # sysexits.h EX_CONFIG: service managers can be told not to restart on it.
    exit_code: ClassVar[int] = 78


class TemporaryError(MetricwatchError):
    """The other side may accept the same request later; retry_after is its own wish, if it gave one."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(MetricwatchError):
    """The same request will be refused for ever: set it aside with its reason."""


class RunGoneError(PermanentError):
    """The run that points were to go to is deleted or not there (any more). The points are good and can wait."""


class InputError(PermanentError):
    """A file or directory of the user's cannot be used: missing, unreadable, or not what it claims to be."""


class MissingWeightsError(PermanentError):
    """A network's weights are not on this machine. The message names the file and how to get it."""


class PluginError(PermanentError):
    """A plugin is unknown, fails on import, or breaks its contract."""


class WorkerError(MetricwatchError):
    """The worker process died, hung, or answered with something that is not the protocol.

    status is its exit status where it exited by itself.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LedgerError(MetricwatchError):
    """The ledger cannot be opened, read or written."""


class LedgerUnavailableError(LedgerError):
    """The disk is full, or does not answer. Nothing was changed; the same can be done again once it is better."""


class LedgerDamagedError(LedgerError):
    """The ledger's file is not what was written to it. Only a person may decide what to go on with."""


class LockedError(LedgerError):
    """Another daemon owns this ledger."""
