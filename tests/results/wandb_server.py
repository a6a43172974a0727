"""A server on this machine that gives W&B's recorded answers to W&B's own client."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

VIEWER = {
    "id": "VXNlcjox",
    "entity": "somebody",
    "username": "somebody",
    "teams": {"edges": []},
    "flags": "{}",
}
PAGES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "wandb_runs.json").read_text())


@contextmanager
def serving(project: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the server's address, and the variables of every request for runs."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                request = json.loads(body)
                variables = request.get("variables") or {}
                if "runs(" in request["query"]:
                    asked.append(variables)
                    known = f"{variables['entity']}/{variables['project']}" == project
                    answer = {
                        "data": PAGES[variables.get("cursor") is not None] if known else {"project": None}
                    }
                else:
                    answer = {"data": {"viewer": VIEWER}}
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
