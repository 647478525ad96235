"""The MLflow sink: curves and tags into a run of a tracking server or of a tracking database.

It speaks through MlflowClient alone: start_run() in a sidecar would end the training run on exit. What makes a
repeated write harmless is MLflow's own primary key on metrics (key, timestamp, step, run, value, is_nan), so
points travel verbatim. A directory of files (./mlruns) has no such key and is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from metricwatch.api import (
    ConfigError,
    MetricwatchError,
    PermanentError,
    Point,
    RemoteRun,
    Run,
    RunGoneError,
    Sink,
    TemporaryError,
)

RUN_TAG = "metricwatch.run"

# The server's limits on one log-batch request (mlflow/utils/validation.py): 1,000 entities, 100 tags, 1e6 bytes.
MAX_ITEMS = 1000
MAX_TAGS = 100
MAX_BYTES = 900_000
MAX_TAG_VALUE = 8000
# JSON punctuation, field names, timestamp, step and a 17-digit value; an entity's texts come on top.
_ITEM_OVERHEAD = 200

# A password may hold every character, / and @ as well when nobody escaped it: only the last @ ends the credentials.
# config/secrets.py divides an address in the same way; a test holds the two together.
_URI = re.compile(r"(?P<scheme>(?:[\w+.\-]*:(?=/))?/*)(?:(?P<user>.*)@)?(?P<place>.*)", re.DOTALL)
_SHORTEST_SECRET = 4
_RUN_ID = re.compile(r"[a-zA-Z0-9][\w\-]{0,255}", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+[\w.]{0,20}")
# The code of MLflow's own checks of what it is sent. Not BAD_REQUEST: that is its word for whatever SQLAlchemy raises
# but an OperationalError, such as a pool without a free connection (mlflow/store/db/utils.py).
_REFUSED = "INVALID_PARAMETER_VALUE"
_TOO_LARGE = 413
# What log-batch says of a run in the trash, with the code of an invalid parameter.
_DELETED = "must be in the 'active' state"
_NEEDS_LOGIN = frozenset({401, 403})


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowOptions:
    """The keys of `tracking`. timeout is in seconds, for each request.

    prefix is what the exporter puts before the keys of scores: points reach this sink with their final keys.
    A user and password inside uri are used and never shown; MLFLOW_TRACKING_USERNAME, _PASSWORD and _TOKEN work.
    """

    uri: str
    experiment: str = "Default"
    prefix: str = "quality"
    timeout: float = 10.0


class MlflowSink(Sink):
    """Writes to http(s)://, sqlite:/// and every other database MLflow supports. Not for several threads."""

    Options = MlflowOptions

    def __init__(self, options: MlflowOptions) -> None:
        self._options = options
        self._cached_client: Any = None
        scheme, user, place = _divided(options.uri)
        # Shown to people: without user, password and query.
        self._where = f"{scheme}{place.partition('?')[0]}".rstrip("/")
        self._is_web = scheme in {"http://", "https://"}
        self._secrets = _spellings(user)
        if not options.uri.strip():
            raise ConfigError("tracking.uri is empty: give a server (http://host:5000) or sqlite:///mlflow.db")
        if ("://" not in scheme and options.uri != "databricks") or scheme.startswith("file:"):
            raise ConfigError(
                f"tracking.uri {self._where!r} is a directory of files, where a repeated point becomes a second one"
                " (and MLflow no longer maintains it): use sqlite:///mlflow.db or a server"
            )
        if self._is_web and re.search(r"[/?#\\]", user) and not _has_port(options.uri):
            raise ConfigError(
                "tracking.uri holds a user or password with a plain / ? # or \\: write %2F %3F %23 %5C for them, or set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        if options.timeout <= 0:
            raise ConfigError(f"tracking.timeout must be above 0 seconds, not {options.timeout:g}")

    def find_run(self, run: Run) -> RemoteRun:
        """Find the run by id, by the id in id_file, or by name; only a name may create one.

        By name the choice is, within the experiment: the oldest run tagged metricwatch.run = run.key; else the
        newest run of that name that somebody else made (RUNNING ones first): the training job's own; else a new run
        with tag and name. Raises TemporaryError while id_file is not written yet, PermanentError when the run or
        the experiment does not exist or is deleted.
        """
        if run.id is not None:
            return self._existing(run.id, f"run {run.id!r}")
        if run.id_file is not None:
            run_id = _read_run_id(run.id_file)
            return self._existing(run_id, f"run {run_id!r} (from {run.id_file})")
        with self._speaking(f"finding run {run.name!r} in experiment {self._options.experiment!r}"):
            return self._find_or_create(run)

    def write(self, run_id: str, points: Sequence[Point], tags: Mapping[str, str]) -> None:
        """Write all or raise; a repeat leaves one row of each point. Long tag values are cut to MLflow's limit.

        Raises PermanentError, with nothing sent, when a value is NaN or infinite: MLflow would store +Inf as 1.8e308.
        """
        for point in points:
            if not math.isfinite(point.value):
                raise PermanentError(
                    f"mlflow: {point.key} at step {point.step} is {point.value}: only finite values are logged"
                )
        with self._speaking(f"writing to run {run_id}"):
            for metrics, run_tags in _requests(points, tags):
                self._log(run_id, metrics, run_tags)

    def ping(self) -> str:
        with self._speaking("asking for a sign of life"):
            self._client().search_experiments(max_results=1)
        return f"MLflow {self._version()}at {self._where}"

    def close(self) -> None:
        self._cached_client = None

    def _log(self, run_id: str, metrics: list[Any], tags: list[Any]) -> None:
        """One request, or as many as it takes where a gateway's limit is below MLflow's own."""
        from mlflow.exceptions import MlflowException

        try:
            self._client().log_batch(run_id, metrics=metrics, tags=tags)
        except MlflowException as error:
            if _status(error) != _TOO_LARGE or len(metrics) + len(tags) == 1:
                raise
            middle = (len(metrics) + len(tags)) // 2
            beyond = max(0, middle - len(metrics))
            self._log(run_id, metrics[:middle], tags[:beyond])
            self._log(run_id, metrics[middle:], tags[beyond:])

    # --- finding runs --------------------------------------------------------------------------------------

    def _existing(self, run_id: str, described: str) -> RemoteRun:
        if not _RUN_ID.fullmatch(run_id):
            raise PermanentError(f"mlflow: {described[:300]} is not a run id (32 hexadecimal digits)")
        with self._speaking(f"looking up {described}"):
            found = self._client().get_run(run_id)
        if found.info.lifecycle_stage != "active":
            raise PermanentError(
                f"mlflow: {described} at {self._where} is deleted: `mlflow runs restore --run-id {run_id}` brings it"
                " back, or name another run"
            )
        return self._remote(found)

    def _find_or_create(self, run: Run) -> RemoteRun:
        experiment = self._experiment()
        if own := self._own(experiment, run):
            return self._remote(own)
        named = [
            found
            for found in self._search(experiment, "attributes.run_name", run.name, "attributes.start_time DESC")
            if found.info.run_name == run.name and RUN_TAG not in found.data.tags
        ]
        if named:
            running = [found for found in named if found.info.status == "RUNNING"]
            return self._remote((running or named)[0])
        created = self._client().create_run(
            experiment, run_name=run.name, tags={RUN_TAG: run.key, "mlflow.source.name": "metricwatch"}
        )
        # A create whose answer was lost may have left an older run behind: settle on the one every later call finds.
        return self._remote(self._own(experiment, run) or created)

    def _own(self, experiment: str, run: Run) -> Any:
        """The oldest run that carries our tag for this run, or None."""
        found = self._search(experiment, f"tags.`{RUN_TAG}`", run.key, "attributes.start_time ASC")
        return next((each for each in found if each.data.tags.get(RUN_TAG) == run.key), None)

    def _search(self, experiment: str, column: str, text: str, order: str) -> Sequence[Any]:
        """Active runs whose column is, or may be, the text: the caller compares again."""
        # MLflow's filters cannot escape a quote. `_` stands for any one character in LIKE.
        pattern = re.sub(r"['\"\\]", "_", text)
        condition = f"{column} = '{text}'" if pattern == text else f"{column} LIKE '{pattern}'"
        runs: Sequence[Any] = self._client().search_runs(
            [experiment], filter_string=condition, max_results=200, order_by=[order]
        )
        return runs

    def _experiment(self) -> str:
        """The experiment's id; created when there is none, whoever else is creating it at the same time."""
        from mlflow.exceptions import MlflowException

        client, name = self._client(), self._options.experiment
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
        if found is None or found.lifecycle_stage != "active":
            raise PermanentError(
                f"mlflow: experiment {name!r} at {self._where} is deleted: `mlflow experiments restore` brings it"
                " back, or set tracking.experiment to another name"
            )
        return str(found.experiment_id)

    def _remote(self, found: Any) -> RemoteRun:
        info = found.info
        url = f"{self._where}/#/experiments/{info.experiment_id}/runs/{info.run_id}" if self._is_web else None
        return RemoteRun(id=info.run_id, url=url)

    # --- the client ----------------------------------------------------------------------------------------

    def _client(self) -> Any:
        """The client, made on first use: importing mlflow takes about 1.3 s and 155 MB."""
        if self._cached_client is None:
            # The client takes its patience from the environment only, at each request. Set once: changing the
            # environment around every call would race with getenv in other threads. No retries: the outbox
            # retries, and a repeated create-run would make a second run.
            os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(math.ceil(self._options.timeout))
            # Read when mlflow is imported. Its usage reports would run two threads and leave the user's network.
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            # Its log lines go where the program's go, in their form, instead of to a handler of its own.
            os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
            from mlflow import MlflowClient

            self._cached_client = MlflowClient(tracking_uri=self._options.uri)
        return self._cached_client

    def _version(self) -> str:
        """The server's version and a space, or nothing where it does not say (managed services do not)."""
        if not self._is_web:
            from mlflow.version import VERSION

            return f"{VERSION} "
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        try:
            text = http_request(get_default_host_creds(self._options.uri), "/version", "GET").text.strip()
        except Exception:  # noqa: BLE001 - an embellishment: the server has answered already
            return ""
        return f"{text} " if _VERSION.fullmatch(text) else ""

    @contextmanager
    def _speaking(self, doing: str) -> Iterator[None]:
        """Turn whatever MLflow raises into our errors."""
        try:
            yield
        except MetricwatchError:
            raise
        except Exception as error:  # noqa: BLE001 - MLflow lets requests, SQLAlchemy and import errors through
            # Not chained: the text of the original names the URI with its password.
            raise self._translated(error, doing) from None

    def _translated(self, error: Exception, doing: str) -> MetricwatchError:
        from mlflow.exceptions import InvalidUrlException, MlflowException

        start = f"mlflow: {doing} at {self._where}: "
        if network := _network_reason(error, self._options.timeout):
            return TemporaryError(start + network)
        if isinstance(error, ImportError):
            return PermanentError(f"{start}{self._clean(str(error))}; install the database driver")
        if not isinstance(error, MlflowException):
            return TemporaryError(f"{start}{type(error).__name__}: {self._clean(str(error))}")
        if isinstance(error, InvalidUrlException) or "unsupported URI" in error.message:
            return PermanentError(f"{start}not an address; tracking.uri looks like http://host:5000 or sqlite:///x.db")
        return self._answered(error, start)

    def _answered(self, error: Any, start: str) -> MetricwatchError:
        """The server, or something before it, said no. Only MLflow's own refusal of the content is for ever.

        A refused point is lost, a point that is tried once too often costs a request: in doubt it is tried again.
        """
        text = start + self._clean(error.message)
        status = _status(error)
        if status in _NEEDS_LOGIN:
            # A token that ran out at night must not cost the night's points.
            hint = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return TemporaryError(f"{text}; {hint}")
        if status == _TOO_LARGE:
            return TemporaryError(f"{text}; raise the limit on requests of what stands before the server")
        if _foreign_status(error):
            return TemporaryError(text)
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or _DELETED in error.message:
            return RunGoneError(text)
        return PermanentError(text) if error.error_code == _REFUSED else TemporaryError(text)

    def _clean(self, text: str) -> str:
        """One short line without credentials."""
        text = text.replace(self._options.uri, self._where)
        known = (os.environ.get(name) for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"))
        for secret in filter(None, (*self._secrets, *known)):
            text = text.replace(secret, "******")
        text = re.sub(r"^[A-Z_]+: ", "", " ".join(text.split()))
        return text if len(text) <= 300 else text[:299] + "…"  # noqa: PLR2004


def _divided(uri: str) -> tuple[str, str, str]:
    """Scheme with its slashes, credentials, and the rest."""
    parts = _URI.fullmatch(uri)
    scheme, user, place = (parts["scheme"], parts["user"] or "", parts["place"]) if parts else ("", "", uri)
    # What cannot be credentials: sqlite:////home/me@work/, https://host/@me.
    local = scheme == "/" or scheme.endswith("///") or (not scheme and user.startswith("."))
    if user and ":" not in user and (local or (user.endswith("/") and "@" not in user)):
        return scheme, "", f"{user}@{place}"
    return scheme, user, place


def _spellings(user: str) -> list[str]:
    """What a library's message may show of the credentials, the longest first."""
    _, colon, password = user.partition(":")
    whole = password if colon else user
    pieces = [piece for piece in re.split(r"[/?#@\\]", whole) if len(piece) >= _SHORTEST_SECRET]
    return sorted({whole, unquote(whole), *(pieces if colon else ())}, key=len, reverse=True)


def _has_port(uri: str) -> bool:
    """True when what stands before the first slash is a host with or without a port."""
    try:
        return urlsplit(uri).port is not None or ":" not in urlsplit(uri).netloc
    except ValueError:
        return False


def _foreign_status(error: Any) -> int | None:
    """The HTTP status of an answer that is no JSON, as a gateway gives it; None where MLflow itself answered."""
    told = re.search(r"failed with error code (\d{3})", error.message)
    return int(told[1]) if told else None


def _status(error: Any) -> int:
    return _foreign_status(error) or int(error.get_http_status_code())


def _read_run_id(path: str) -> str:
    """The id a training job wrote. Raises TemporaryError while it has not."""
    try:
        # A pipe nobody writes to would block for ever, on opening and on reading.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PermanentError(f"{path}: is a pipe or a device, not a regular file with an MLflow run id")
            content = file.read(4096)
    except FileNotFoundError:
        raise TemporaryError(f"{path}: not written yet; it will hold the MLflow run id of the training job") from None
    except IsADirectoryError:
        raise PermanentError(f"{path}: is a directory, not a file with an MLflow run id") from None
    except OSError as error:
        raise TemporaryError(f"{path}: {error.strerror}") from error
    text = content.decode("utf-8", errors="replace").strip()
    if not text:
        raise TemporaryError(f"{path}: empty; its MLflow run id is not written yet")
    if not _RUN_ID.fullmatch(text):
        raise PermanentError(f"{path}: {text[:60]!r} is not an MLflow run id; write mlflow's run.info.run_id there")
    return text


def _requests(points: Sequence[Point], tags: Mapping[str, str]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Group metrics and tags into as few requests as the server's limits allow, in order."""
    from mlflow.entities import Metric, RunTag

    metrics: list[Any] = []
    run_tags: list[Any] = []
    room = MAX_BYTES
    items: list[Point | tuple[str, str]] = [*points, *((key, value[:MAX_TAG_VALUE]) for key, value in tags.items())]
    for item in items:
        texts = item.key if isinstance(item, Point) else item
        size = _ITEM_OVERHEAD + len(json.dumps(texts))
        full = len(metrics) + len(run_tags) >= MAX_ITEMS or len(run_tags) >= MAX_TAGS
        if (metrics or run_tags) and (full or size > room):
            yield metrics, run_tags
            metrics, run_tags, room = [], [], MAX_BYTES
        room -= size
        if isinstance(item, Point):
            metrics.append(Metric(item.key, item.value, item.timestamp_ms, item.step))
        else:
            run_tags.append(RunTag(*item))
    if metrics or run_tags:
        yield metrics, run_tags


def _network_reason(error: BaseException | None, timeout: float) -> str | None:
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


__all__ = ["RUN_TAG", "MlflowOptions", "MlflowSink"]
