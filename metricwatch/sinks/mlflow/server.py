"""A tracking server or database: the client that speaks to it, and its failures in our words."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from metricwatch.api import MetricwatchError, PermanentError, RunGoneError, TemporaryError

from .address import Address
from .loading import load_mlflow

# Without a colon it is no login: wasbs://container@account.
_STORE_LOGIN = re.compile(r"[\w+.\-]+://(?P<login>[^/]*?:(?P<password>.*))@")
_VERSION = re.compile(r"\d+\.\d+[\w.]{0,20}")
# The code of MLflow's own checks of what it is sent. Not BAD_REQUEST: that is its word for whatever SQLAlchemy raises
# but an OperationalError, such as a pool without a free connection (mlflow/store/db/utils.py).
_REFUSED = "INVALID_PARAMETER_VALUE"
TOO_LARGE = 413
# What log-batch says of a run in the trash, with the code of an invalid parameter.
_DELETED = "must be in the 'active' state"
NOT_FOUND = 404
NEEDS_LOGIN = frozenset({401, 403})
_LOGIN_HINT = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"

# A page that MLflow itself does not know: it, or what stands before it, shows itself below another path.
_ADDRESS_HINT = "is tracking.uri whole? It ends with the prefix of a server that has one (`--static-prefix`, a proxy)"


class Server:
    """One tracking server or database. timeout is in seconds, for each request."""

    def __init__(self, address: Address, timeout: float) -> None:
        self.address = address
        self.where = address.where
        self.is_web = address.is_web
        self._timeout = timeout
        self._cached_client: Any = None

    def client(self) -> Any:
        """The MlflowClient, made on first use: importing mlflow takes about half a second and 75 MB."""
        if self._cached_client is None:
            # The client takes its patience from the environment only, at each request. Set once: changing the
            # environment around every call would race with getenv in other threads. No retries: the outbox
            # retries, and a repeated create-run would make a second run.
            seconds = str(math.ceil(self._timeout))
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = seconds
            # What uploads straight to Google's, Azure's and Amazon's stores obey; the last knows no other limit.
            os.environ.setdefault("MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT", seconds)
            os.environ.setdefault("AWS_MAX_ATTEMPTS", "1")
            load_mlflow()
            from mlflow import MlflowClient

            if not self.is_web:
                _try_databases_once()
            self._cached_client = MlflowClient(tracking_uri=self.address.uri)
        return self._cached_client

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """Ask for what MlflowClient has no method for; returns the answer as requests gives it."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        return http_request(get_default_host_creds(self.address.uri), path, "GET", params=query)

    def version(self) -> str:
        """The server's version and a space, or nothing where it does not say (managed services do not)."""
        if not self.is_web:
            from mlflow.version import VERSION

            return f"{VERSION} "
        try:
            text = self.get("/version").text.strip()
        except Exception:  # noqa: BLE001 - an embellishment: the server has answered already
            return ""
        return f"{text} " if _VERSION.fullmatch(text) else ""

    def close(self) -> None:
        self._cached_client = None

    # --- failures ------------------------------------------------------------------------------------------

    @contextmanager
    def speaking(self, doing: str) -> Iterator[None]:
        """Turn whatever MLflow raises into our errors. It is imported by then."""
        try:
            load_mlflow()
            yield
        except MetricwatchError:
            raise
        except Exception as error:  # noqa: BLE001 - MLflow lets requests, SQLAlchemy and import errors through
            # Not chained: the text of the original names the URI with its password.
            raise self._translated(error, doing) from None

    @contextmanager
    def storing(self, doing: str, store: str) -> Iterator[None]:
        """Turn whatever an artifact store raises into a TemporaryError: its owner can mend it, the picture is good."""
        try:
            yield
        except MetricwatchError:
            raise
        except Exception as error:  # noqa: BLE001 - every store has a library of its own
            _drop_connections()
            reason = self._stored_reason(error, store)
            raise TemporaryError(f"mlflow: {doing} at {self.where}: {_without_login(reason, store)}") from None

    def _stored_reason(self, error: Exception, store: str) -> str:
        if isinstance(error, ImportError):
            return f"{self.clean(str(error))}; install what {store} needs, and start again"
        network = network_reason(error, self._timeout)
        status = _artifact_status(error)
        if status in NEEDS_LOGIN:
            return f"HTTP {status} from the artifact store; {_LOGIN_HINT}"
        if status == TOO_LARGE:
            return f"HTTP {status}; raise the limit on requests of what stands before the server"
        if status is not None:
            return f"HTTP {status} from the artifact store; look into the server's log: can it write {store}?"
        if network:
            return network
        reason = self.clean(str(error))
        return f"{type(error).__name__}: {reason}; check that the artifact store {store} can be written from here"

    def _translated(self, error: Exception, doing: str) -> MetricwatchError:
        from mlflow.exceptions import InvalidUrlException, MlflowException

        start = f"mlflow: {doing} at {self.where}: "
        if network := network_reason(error, self._timeout):
            return TemporaryError(start + network)
        if isinstance(error, ImportError):
            return PermanentError(f"{start}{self.clean(str(error))}; install the database driver")
        if not isinstance(error, MlflowException):
            return TemporaryError(f"{start}{type(error).__name__}: {self.clean(str(error))}")
        if isinstance(error, InvalidUrlException) or "unsupported URI" in error.message:
            return PermanentError(f"{start}not an address; tracking.uri looks like http://host:5000 or sqlite:///x.db")
        return self._answered(error, start)

    def _answered(self, error: Any, start: str) -> MetricwatchError:
        """The server, or something before it, said no. Only MLflow's own refusal of the content is for ever.

        A refused point is lost, a point that is tried once too often costs a request: in doubt it is tried again.
        """
        text = start + self.clean(error.message)
        status = status_of(error)
        if status in NEEDS_LOGIN:
            # A token that ran out at night must not cost the night's points.
            return TemporaryError(f"{text}; {_LOGIN_HINT}")
        if status == TOO_LARGE:
            return TemporaryError(f"{text}; raise the limit on requests of what stands before the server")
        if status == NOT_FOUND and _foreign_status(error):
            return TemporaryError(f"{text}; {_ADDRESS_HINT}")
        if _foreign_status(error):
            return TemporaryError(text)
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or _DELETED in error.message:
            return RunGoneError(text)
        return PermanentError(text) if error.error_code == _REFUSED else TemporaryError(text)

    def clean(self, text: str) -> str:
        """One short line without credentials."""
        text = text.replace(self.address.uri, self.where)
        known = (os.environ.get(name) for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"))
        for secret in filter(None, (*self.address.secrets, *known)):
            text = text.replace(secret, "******")
        text = re.sub(r"^[A-Z_]+: ", "", " ".join(text.split()))
        return text if len(text) <= 300 else text[:299] + "…"  # noqa: PLR2004


def _try_databases_once() -> None:
    """Have MLflow say at once that a database is not there: of itself it tries for 101 s, and points wait behind it."""
    from importlib import import_module

    from mlflow.exceptions import MlflowException

    try:
        # Of MLflow's own workings. Where the number is not, or SQLAlchemy is not there, nothing changes.
        databases = import_module("mlflow.store.db.utils")
    except (ImportError, MlflowException):
        return
    if hasattr(databases, "MAX_RETRY_COUNT"):
        setattr(databases, "MAX_RETRY_COUNT", 1)  # noqa: B010 - its stubs do not show it


def _without_login(text: str, store: str) -> str:
    """The text without the login that the address of an artifact store may hold: ftp://user:password@host."""
    found = _STORE_LOGIN.match(store)
    if found is None:
        return text
    whole, password = found["login"], found["password"]
    for secret in sorted({whole, unquote(whole), password, unquote(password)} - {""}, key=len, reverse=True):
        text = text.replace(secret, "******")
    return text


def _drop_connections() -> None:
    """Forget the connections that MLflow keeps open.

    A server that refuses an upload before it has read all of it hangs up, and the next request would go there: a point
    would be late because of a picture.
    """
    from mlflow.utils import request_utils

    # Of MLflow's own workings. Where it is not, that point is sent once more a second later.
    sessions = getattr(request_utils, "_cached_get_request_session", None)
    if (clear := getattr(sessions, "cache_clear", None)) is not None:
        clear()


def status_of(error: Any) -> int:
    """The HTTP status of what came back instead of an answer."""
    return _foreign_status(error) or int(error.get_http_status_code())


def _foreign_status(error: Any) -> int | None:
    """The HTTP status of an answer that is no JSON, as a gateway gives it; None where MLflow itself answered."""
    told = re.search(r"failed with error code (\d{3})", error.message)
    return int(told[1]) if told else None


def _artifact_status(error: BaseException) -> int | None:
    """The HTTP status that an upload ended with, None where it did not come that far."""
    import requests.exceptions as http

    if isinstance(error, http.HTTPError) and error.response is not None:
        return int(error.response.status_code)
    told = re.search(r"too many (\d{3}) error responses", str(error))
    return int(told[1]) if told else None


def network_reason(error: BaseException | None, timeout: float) -> str | None:
    """What went wrong below HTTP, or None when the server itself answered. MLflow keeps it as the context only."""
    import requests.exceptions as http

    while error is not None and not isinstance(error, http.RequestException):
        error = error.__cause__ or error.__context__
    text = str(error)
    if error is None or isinstance(error, http.InvalidURL | http.InvalidSchema):
        return None
    # MLflow's client raises on 408, 429 and 5xx before anyone sees the answer: a Retry-After header is lost with it.
    if told := re.search(r"too many (\d{3}) error responses", text):
        return f"HTTP {told[1]}"
    if isinstance(error, http.Timeout) or "timed out" in text:
        return f"no answer within {timeout:g} s"
    if isinstance(error, http.SSLError):
        return "TLS failed: check the certificate, or set MLFLOW_TRACKING_SERVER_CERT_PATH to its CA"
    if "Connection refused" in text:
        return "connection refused"
    return "host name not found" if "resolve" in text else "connection lost"
