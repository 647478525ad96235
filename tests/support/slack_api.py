"""Slack's Web API on a real HTTP server: what a bot needs to post a message and to upload a picture."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

TOKEN = "xoxb-17-hunter2-AbCdEf"
CHANNEL = "C0123ABCD"


@dataclass(slots=True, kw_only=True)
class SlackApi:
    """What was asked for, in order, and what came of it. answers maps a method, or "upload", to what it says instead."""

    url: str
    calls: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    shared: list[dict[str, str]] = field(default_factory=list)
    authorized: dict[str, str | None] = field(default_factory=dict)
    answers: dict[str, Response] = field(default_factory=dict)

    def respond(self, request: Request) -> Response:
        method = "upload" if "/upload/" in request.path else request.path.rpartition("/")[2]
        self.calls.append(method)
        self.authorized[method] = request.headers.get("Authorization")
        if method in self.answers:
            return self.answers[method]
        if method == "upload":
            self.files[request.path.rpartition("/")[2]] = request.get_data()
            return Response("OK - 1")
        return ok(self._done(method, _arguments(request)))

    def _done(self, method: str, said: dict[str, Any]) -> dict[str, Any]:
        if method == "chat.postMessage":
            self.messages.append(said)
            return {"channel": CHANNEL, "ts": f"1700000000.{len(self.messages):06}"}
        if method == "chat.update":
            self.updates.append(said)
            return {"channel": said["channel"], "ts": said["ts"]}
        if method == "files.getUploadURLExternal":
            number = f"F{len([call for call in self.calls if call == method]):09}"
            return {"file_id": number, "upload_url": f"{self.url.replace('/api/', '/upload/v1/')}{number}"}
        assert method == "files.completeUploadExternal"
        self.shared.append(said)
        return {"files": json.loads(said["files"])}


def ok(said: Mapping[str, Any]) -> Response:
    return Response(json.dumps({"ok": True, **said}), content_type="application/json")


def refusal(error: str, status: int = 200, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Slack says no with HTTP 200 mostly."""
    body = json.dumps({"ok": False, "error": error, **more})
    return Response(body, status=status, headers=dict(headers or {}), content_type="application/json")


def slack_api(server: HTTPServer) -> SlackApi:
    """Serve the Web API below /api/ and uploads below /upload/v1/."""
    api = SlackApi(url=server.url_for("/api/"))
    for path in ("/api/", "/upload/v1/"):
        server.expect_request(_below(path), method="POST").respond_with_handler(api.respond)
    return api


def _below(path: str) -> re.Pattern[str]:
    return re.compile(rf"^{re.escape(path)}.+$")


def _arguments(request: Request) -> dict[str, Any]:
    if request.is_json:
        return dict(request.get_json())
    return {name: values[0] for name, values in parse_qs(request.get_data(as_text=True)).items()}
