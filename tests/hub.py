"""A small hub on this machine: the addresses of huggingface.co that downloads and uploads of models use."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

API = re.compile(
    r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<what>revision|tree|preupload|commit)/(?P<revision>\w+))?"
)
FILE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>\w+)/(?P<file>.+)")
TOKEN = "hf_secret"


class Hub(ThreadingHTTPServer):
    """Serves `repos`, each a list of commits (name of a file -> its bytes); those in `private` want the token."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos, self.private, self.gated, self.served = {}, set(), set(), []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def files(self, repo, revision="main"):
        """The files of a repository at a revision: main, or a commit; None if there are none."""
        commits = {sha(repo, number): files for number, files in enumerate(self.repos[repo])}
        return self.repos[repo][-1] if revision == "main" else commits.get(revision)


def sha(repo, number):
    """The name of a commit."""
    return hashlib.sha1(f"{repo} {number}".encode()).hexdigest()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *values):
        pass

    def do_GET(self):
        self.server.served.append(f"{self.command} {self.path}")
        file, api = FILE.match(self.path), API.match(self.path)
        if not (file or api):
            return self.answer(200, {})
        found = (file or api).groupdict()
        repo, revision = found["repo"], found.get("revision") or "main"
        trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not trusted and (repo not in self.server.repos or repo in self.server.private):
            return self.answer(401, {}, {"X-Error-Code": "RepoNotFound"})  # as huggingface.co answers for both
        if repo not in self.server.repos:
            return self.answer(404, {}, {"X-Error-Code": "RepoNotFound"})
        if repo in self.server.gated:
            return self.answer(403, {}, {"X-Error-Code": "GatedRepo"})
        files = self.server.files(repo, revision)
        if files is None:
            return self.answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        commit = revision if revision != "main" else sha(repo, len(self.server.repos[repo]) - 1)
        if file:
            if found["file"] not in files:
                return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            content = files[found["file"]]
            etag = hashlib.sha1(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        if found["what"] == "tree":
            tree = [{"type": "file", "path": name, "size": len(each), "oid": "0"} for name, each in files.items()]
            return self.answer(200, tree)
        return self.answer(200, {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.served.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"warnings": [], "errors": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.server.repos.setdefault(repo, [{}])
            return self.answer(200, {"url": f"{self.server.endpoint}/{repo}"})
        found = API.match(self.path)
        if found["what"] == "preupload":
            modes = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        lines = [json.loads(line)["value"] for line in body.splitlines() if b'"key": "file"' in line]
        files = {each["path"]: base64.b64decode(each["content"]) for each in lines}
        commits = self.server.repos[found["repo"]]
        commits.append({**commits[-1], **files})
        oid = sha(found["repo"], len(commits) - 1)
        return self.answer(200, {"commitUrl": f"{self.server.endpoint}/{found['repo']}/commit/{oid}", "commitOid": oid})

    def answer(self, status, content, headers=None):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
