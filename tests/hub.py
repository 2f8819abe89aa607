"""A stand-in for the Hugging Face hub on this machine: who one is, and repositories that take files."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_of_this_test"


@dataclass
class Hub:
    """What it holds and was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by repository."""
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    address: str = ""


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub whose only user is `someone`, in the group `lab`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
            if self.path == "/api/whoami-v2":
                known = {"name": "someone", "type": "user", "orgs": [{"name": "lab"}]}
                authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                return self.answer(known) if authorised else self.answer({"error": "Invalid token"}, code=401)
            name = self.repository()
            if name not in hub.repositories:
                return self.answer({"error": "Repository not found"}, code=404)
            if "/tree/" in self.path:
                files = hub.repositories[name]
                return self.answer([{"type": "file", "path": path, "size": 1, "oid": "0"} for path in files])
            return self.answer({"id": name, "sha": "0" * 40, "siblings": [], "private": True, "tags": []})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if self.path == "/api/repos/create":
                asked = json.loads(content)
                name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                hub.private[name] = asked.get("private", asked.get("visibility") == "private")
                return self.answer({"url": f"{hub.address}/{name}", "name": name})
            if "/preupload/" in self.path:
                names = [each["path"] for each in json.loads(content)["files"]]
                modes = [{"path": each, "uploadMode": "regular", "shouldIgnore": False} for each in names]
                return self.answer({"files": modes})
            if "/commit/" in self.path:
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.repositories[self.repository()][value["path"]] = base64.b64decode(
                            value["content"]
                        )
                return self.answer(
                    {"commitUrl": f"{hub.address}/{self.repository()}/commit/0", "commitOid": "0"}
                )
            return self.answer({"error": f"the stand-in does not know {self.path}"}, code=400)

        def repository(self) -> str:
            return "/".join(self.path.split("?")[0].split("/")[3:5])

        def answer(self, content: object, code: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(code)
            if code == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
