"""The daemon's own health: counters read from the ledger, served on loopback when a port is configured."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from metricwatch.clock import Clock, SystemClock
from metricwatch.errors import ConfigError, LedgerError
from metricwatch.records import Alert
from metricwatch.store.alerts import Alerts
from metricwatch.store.attention import Attention
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.figures import Figures
from metricwatch.store.ledger import Ledger
from metricwatch.store.outbox import Backlog
from metricwatch.store.pages import Pages
from metricwatch.store.pictures import Pictures

log = structlog.get_logger(__name__)

# Of each list: the counts are of all.
_MOST_LISTED = 100
_SEVERITIES = ("critical", "warning", "info")


class Health:
    """What the ledger says of the daemon's work. Reads only; every call sees one moment of each table.

    trouble says why the ledger cannot be written at the moment, "" when it can. sinks and receivers are the configured
    ones: they are shown also while nothing waits for them.
    """

    def __init__(
        self,
        db: Database,
        alive: Callable[[], bool] = lambda: True,
        *,
        trouble: Callable[[], str] = str,
        sinks: Sequence[str] = (),
        receivers: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self._ledger = Ledger(db)
        self._deliveries = Deliveries(db)
        self._pictures = Pictures(db)
        self._alerts = Alerts(db)
        self._attention = Attention(db)
        self._pages = Pages(db)
        self._figures = Figures(db)
        self._alive = alive
        self._trouble = trouble
        self._names = sinks
        self._receivers = receivers
        self._clock = clock or SystemClock()

    def healthy(self) -> bool:
        """True while the daemon's loops turn and the ledger can be written."""
        return self._alive()

    def document(self) -> dict[str, Any]:
        """Counts by name; sinks sums up what waits for each and what it rejected, backlog lists it by run.

        figures says what waits to be drawn, or will never be. alerts lists what fires and what may fire soon,
        notifications what waits for each receiver or has failed. Ages are in seconds. A reason is what the other side
        last said, "" when it has not said anything.
        """
        backlog, firing, notifications = self._deliveries.backlog(), self._alerts.firing(), self._notifications()
        return {
            "ledger": self._trouble() or "ok",
            "jobs": dict(self._ledger.job_counts()),
            "sinks": self._sinks(backlog),
            "backlog": [
                {
                    "sink": item.sink,
                    "run": item.run,
                    "pending": item.pending,
                    "oldest_pending_seconds": self._age(item),
                    "reason": item.reason,
                }
                for item in backlog
            ],
            "alerts": {
                "firing": [self._firing(alert) for alert in firing[-_MOST_LISTED:]],
                "pending": [
                    {"run": self._run(rule.run), "rule": rule.rule, "step": rule.step, "note": rule.note}
                    for rule in self._attention.pending_rules(_MOST_LISTED)
                ],
            },
            "alerts_firing": len(firing),
            "alerts_firing_by_severity": {
                severity: sum(alert.severity == severity for alert in firing) for severity in _SEVERITIES
            },
            "notifications": notifications,
            "notifications_pending": sum(each["pending"] for each in notifications.values()),
            "pages": [
                {"sink": page.sink, "run": self._run(page.run), "page": page.name, "reason": page.reason}
                for page in self._pages.troubles()[:_MOST_LISTED]
            ],
            "figures": self._undrawn(),
        }

    def _undrawn(self) -> dict[str, Any]:
        waiting, failed = self._figures.backlog(), self._figures.failed(1)
        return {
            "pending": sum(item.pending for item in waiting),
            "oldest_pending_seconds": max((self._seconds(item.oldest) for item in waiting), default=0.0),
            "reason": next((item.reason for item in waiting if item.reason), ""),
            "failed": self._figures.failures(),
            "last_failure": failed[0].reason if failed else "",
        }

    def _firing(self, alert: Alert) -> dict[str, Any]:
        return {
            "run": self._run(alert.run),
            "rule": alert.rule,
            "metric": alert.metric,
            "severity": alert.severity,
            "since_step": alert.fired_step,
            "seconds": self._seconds(alert.fired_at) if alert.fired_at else None,
            "what": alert.what or f"moved by {alert.change:+.1%}",
        }

    def _run(self, key: str) -> str:
        try:
            return self._ledger.run(key).name
        except KeyError:
            # Its retention has ended between two looks.
            return key

    def _notifications(self) -> dict[str, dict[str, Any]]:
        found = {item.receiver: item for item in self._attention.receivers()}
        shown = {}
        for name in sorted({*self._receivers, *found}):
            item = found.get(name)
            shown[name] = {
                "pending": item.pending if item else 0,
                "oldest_pending_seconds": self._seconds(item.oldest) if item and item.oldest else 0.0,
                "reason": item.reason if item else "",
                "failed": item.failed if item else 0,
                "last_failure": item.last_failure if item else "",
            }
        return shown

    def _sinks(self, backlog: Sequence[Backlog]) -> dict[str, dict[str, Any]]:
        rejections = self._deliveries.rejections_by_sink()
        pictures, refused = self._pictures.backlog(), self._pictures.rejections_by_sink()
        found = {}
        for name in sorted({*self._names, *rejections, *refused, *(item.sink for item in (*backlog, *pictures))}):
            waiting = [item for item in backlog if item.sink == name]
            waiting_pictures = [item for item in pictures if item.sink == name]
            rejected, last_rejection = rejections.get(name, (0, ""))
            refused_pictures, last_refusal = refused.get(name, (0, ""))
            found[name] = {
                "pending": sum(item.pending for item in waiting),
                "oldest_pending_seconds": max(map(self._age, waiting), default=0.0),
                "reason": next((item.reason for item in waiting if item.reason), ""),
                "rejected": rejected,
                "last_rejection": last_rejection,
                "pictures_pending": sum(item.pending for item in waiting_pictures),
                "pictures_oldest_pending_seconds": max(map(self._age, waiting_pictures), default=0.0),
                "pictures_reason": next((item.reason for item in waiting_pictures if item.reason), ""),
                "pictures_rejected": refused_pictures,
                "pictures_last_rejection": last_refusal,
            }
        return found

    def _age(self, item: Backlog) -> float:
        return self._seconds(item.oldest)

    def _seconds(self, since: datetime) -> float:
        return max(0.0, (self._clock.now() - since).total_seconds())

    def collect(self) -> Iterable[Metric]:
        """The same counts for Prometheus."""
        document = self.document()
        jobs = GaugeMetricFamily("metricwatch_jobs", "Evaluation jobs by state.", labels=["state"])
        for state, count in document["jobs"].items():
            jobs.add_metric([state], count)
        yield jobs
        for metric, key, described in (
            ("metricwatch_deliveries_pending", "pending", "Deliveries waiting for a sink."),
            (
                "metricwatch_delivery_oldest_pending_seconds",
                "oldest_pending_seconds",
                "Age of the delivery that has waited longest for a sink, 0 when none waits.",
            ),
            ("metricwatch_deliveries_rejected", "rejected", "Deliveries that a sink will never take, in all."),
            ("metricwatch_pictures_pending", "pictures_pending", "Pictures waiting for a sink."),
            (
                "metricwatch_picture_oldest_pending_seconds",
                "pictures_oldest_pending_seconds",
                "Age of the picture that has waited longest for a sink, 0 when none waits.",
            ),
            ("metricwatch_pictures_rejected", "pictures_rejected", "Pictures given up, of those still remembered."),
        ):
            family = GaugeMetricFamily(metric, described, labels=["sink"])
            for sink, values in document["sinks"].items():
                family.add_metric([sink], values[key])
            yield family
        yield GaugeMetricFamily("metricwatch_alerts_firing", "Alerts firing now.", value=document["alerts_firing"])
        alerts = GaugeMetricFamily(
            "metricwatch_alerts",
            "Alerts by state and severity; the severity of one that is pending is not known yet.",
            labels=["state", "severity"],
        )
        for severity, count in document["alerts_firing_by_severity"].items():
            alerts.add_metric(["firing", severity], count)
        alerts.add_metric(["pending", ""], len(document["alerts"]["pending"]))
        yield alerts
        for metric, key, described in (
            ("metricwatch_notifications_pending", "pending", "Messages waiting for a receiver."),
            (
                "metricwatch_notification_oldest_pending_seconds",
                "oldest_pending_seconds",
                "Age of the message that has waited longest for a receiver, 0 when none waits.",
            ),
            ("metricwatch_notifications_failed", "failed", "Messages given up, of those still remembered."),
        ):
            family = GaugeMetricFamily(metric, described, labels=["receiver"])
            for receiver, values in document["notifications"].items():
                family.add_metric([receiver], values[key])
            yield family
        for metric, key, described in (
            ("metricwatch_figures_pending", "pending", "Figures of evaluations that wait to be drawn."),
            (
                "metricwatch_figure_oldest_pending_seconds",
                "oldest_pending_seconds",
                "Age of the figure that has waited longest to be drawn, 0 when none waits.",
            ),
            ("metricwatch_figures_failed", "failed", "Figures given up, of those still remembered."),
        ):
            yield GaugeMetricFamily(metric, described, value=document["figures"][key])
        yield GaugeMetricFamily(
            "metricwatch_pages_failing", "Pages that could not be written.", value=len(document["pages"])
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the base's signature
        """A scraper that hangs up in the middle is its own business: no traceback in our log."""
        log.debug("telemetry.broken_connection", client=str(client_address))


class HealthServer:
    """Answers /-/healthy and /metrics from its own thread. Raises ConfigError when the port is taken."""

    def __init__(self, host: str, port: int, health: Health) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(health)
        try:
            self._server = _Server((host, port), _handler(health, registry))
        except OSError as error:
            hint = "name a free one with `telemetry: {port: ...}`; is another daemon running?"
            if error.errno != errno.EADDRINUSE:
                hint = "check `telemetry: {host: ..., port: ...}`"
            raise ConfigError(f"telemetry: cannot listen on {host}:{port}: {error.strerror}; {hint}") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


def _handler(health: Health, registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A connection that says nothing is closed, not kept by a thread for ever.
        timeout = 10

        def do_GET(self) -> None:
            try:
                if self.path == "/-/healthy":
                    healthy = health.healthy()
                    body = json.dumps({"healthy": healthy, **health.document()}).encode()
                    status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
                    self._answer(status, "application/json", body)
                elif self.path == "/metrics":
                    self._answer(HTTPStatus.OK, "text/plain; version=0.0.4", generate_latest(registry))
                else:
                    self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"try /-/healthy or /metrics\n")
            except LedgerError as error:
                self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n".encode())

        def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Scrapes every few seconds are not worth a line."""

    return Handler
