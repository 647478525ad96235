"""An HTTP proxy before a real server that can lose an answer after the server has acted on the request."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class LossyProxy:
    """lose holds path endings: the next answer to each is swallowed once. seen lists the paths that came by."""

    uri: str
    lose: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)


@contextmanager
def lossy_proxy(upstream: str) -> Iterator[LossyProxy]:
    """Forward everything to upstream, byte for byte, but for the answers that are to be lost."""
    proxy = LossyProxy(uri="")

    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            path = self.path.partition("?")[0]
            proxy.seen.append(path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(
                upstream + self.path, data=body or None, headers=headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
            for ending in proxy.lose:
                if path.endswith(ending):
                    proxy.lose.remove(ending)
                    self.close_connection = True
                    return
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _forward  # noqa: N815 - http.server's names

        def log_message(self, *args: object) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="lossy-proxy")
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
