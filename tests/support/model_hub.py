"""A small Hugging Face hub on loopback: one repository, one revision."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def serve_repository(server: HTTPServer, repository: str, folder: Path) -> None:
    """Answer what huggingface_hub asks to list and download the folder's files."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
    listing = {
        "id": repository,
        "modelId": repository,
        "sha": COMMIT,
        "siblings": siblings,
        "tags": [],
        "private": False,
    }
    for path in (f"/api/models/{repository}", f"/api/models/{repository}/revision/main"):
        server.expect_request(path).respond_with_json(listing)
    tree = [
        {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
        for name, content in files.items()
    ]
    server.expect_request(f"/api/models/{repository}/tree/{COMMIT}").respond_with_json(tree)

    def answer(request: Request) -> Response:
        content = files[request.path.rpartition("/")[2]]
        etag = hashlib.sha1(content).hexdigest()
        return Response(content, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "Accept-Ranges": "none"})

    for name in files:
        server.expect_request(f"/{repository}/resolve/{COMMIT}/{name}").respond_with_handler(answer)
