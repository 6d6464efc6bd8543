"""What is pushed to a hub is there as it was written: by the library's own calls, over HTTP."""

from __future__ import annotations

import base64
import inspect
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi

from fewstep.base.errors import StorageError, UserError
from fewstep.export import hub

FILES = {"README.md": "---\nlicense: mit\n---\n# x\n", "generator.json": "{}", "a.bin": "\0\1\2"}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that makes a model and takes a commit of small files."""

    models: dict[str, dict[str, bytes]]
    requests: list[dict]

    def log_message(self, *args) -> None:
        pass

    def answer(self, value: dict, code: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.answer({"siblings": [], "id": "me/digits", "sha": "0" * 40})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        words = self.path.split("?")[0].strip("/").split("/")
        if words[-1] == "create":
            request = json.loads(content)
            self.requests.append(request | {"token": self.headers["Authorization"]})
            name = "/".join(filter(None, [request.get("organization"), request["name"]]))
            self.models.setdefault(name, {})
            address = f"http://{self.headers['Host']}/{name}"
            self.answer({"url": address, "id": name, "name": name})
        elif "preupload" in words:
            files = json.loads(content)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            self.answer({"files": [m | {"shouldIgnore": False} for m in modes]})
        elif "commit" in words:
            for line in content.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    data = base64.b64decode(value["content"])
                    self.models["/".join(words[2:4])][value["path"]] = data
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/digits/commit/{0:040}",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            )
        else:
            self.answer({"valid": True})  # the check of a card's front matter


@pytest.fixture
def server():
    handler = type("Own", (Hub,), {"models": {}, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_was_pushed_is_read_back(server, folder):
    handler, address = server
    api = HfApi(endpoint=address, token="secret")
    assert hub.push(folder, "me/digits", private=True, api=api).endswith("/me/digits")
    expected = {name: text.encode() for name, text in FILES.items()}
    assert handler.models == {"me/digits": expected}
    (request,) = handler.requests
    assert request["token"] == "Bearer secret"
    assert "private" in (request.get("visibility"), "private" * bool(request.get("private")))


def test_the_librarys_calls_have_the_arguments_that_are_used():
    used = {
        "create_repo": ("repo_id", "repo_type", "private", "exist_ok"),
        "upload_folder": ("repo_id", "folder_path", "repo_type", "commit_message"),
    }
    for name, words in used.items():
        assert set(words) <= inspect.signature(getattr(HfApi, name)).parameters.keys()


def test_a_hub_that_refuses_is_one_line(folder):
    api = HfApi(endpoint="http://127.0.0.1:9", token="secret")
    with pytest.raises(StorageError, match=r"cannot push to me/digits: .*the export itself is in"):
        hub.push(folder, "me/digits", api=api)
    with pytest.raises(UserError, match="push = 'a/b/c': expected OWNER/NAME"):
        hub.push(folder, "a/b/c", api=api)
