"""A stand-in for kaggle.com which the real `kaggle` package (2.2.5) talks to, so that tests need no account.

A test scripts the server in its own process, and gives `environment(home)` to the processes that run the package.
By hand: `python tests/kaggle_server.py --home DIR`, then `kaggle ...` in a shell with the lines that this prints.
"""

import argparse
import base64
import contextlib
import io
import json
import re
import shlex
import threading
import time
import uuid
import zipfile
import zlib
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

USER, KEY = "someone", "fake"
COMPETITION = "tpu-getting-started"
CHANGED = datetime(2020, 2, 1, tzinfo=UTC)  # the competition's data
QUEUE_FULL = "Maximum batch {} session count of {} reached."
PAGE = b"<!DOCTYPE html><html><title>Kaggle</title>Too many requests</html>"
FAILURE = "Notebook Threw Exception"
LOG = ["All is well.\n"]
LOG_OF_AN_ERROR = ["Traceback (most recent call last):\n", "ValueError: all is not well\n"]
RULES = "You must accept this competition's rules before you'll be able to download files."
FAULTS = {"error": 2, "http": 3, "page": 2, "cut": 1, "lost": 1, "stall": 1, "part": 2}  # kind -> length of the tuple


class Refusal(Exception):
    """An answer with an HTTP status of 400 or more."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclass
class Session:
    """One version of a kernel and its run; `body` is what SaveKernel was sent, without the fields left at default."""

    slug: str
    version: int
    body: dict
    invalid: dict  # Dataset, Kernel, Competition -> the sources that the version does without
    status: str = "QUEUED"
    polls: int = 0  # answers to GetKernelSessionStatus before the end
    files: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    state: str | None = None  # to be told instead of its status
    began: datetime = field(default_factory=partial(datetime.now, UTC))
    ended: datetime | None = None


@dataclass
class Dataset:
    """A dataset as its newest version has it; `waits` more answers to GetDatasetStatus say that it is not ready."""

    files: dict
    versions: int = 1
    waits: int = 0


class KaggleServer:
    """The state of the stand-in, the answers of its methods and, in a `with` statement, the server itself.

    Attributes that tests set or read, with `lock` held where a client is at work at the same time:
        requests: (method, body) of each call, in order of arrival, those that are refused or fail included.
        arrivals: when they arrived, by the monotonic clock.
        unknown: what was asked for that does not exist here.
        polls: answers QUEUED (the first) and RUNNING (the others) that GetKernelSessionStatus gives before the end.
        ends: slug of a kernel -> status at the end: COMPLETE unless given, ERROR or CANCEL_ACKNOWLEDGED; or a list
            with that of each session, in order.
        stuck: slug of a kernel -> status that its sessions get instead of going on.
        outputs: slug of a kernel -> {name: bytes}, or a function from the saved body to that, called at the end.
        logs: slug of a kernel -> lines of its log.
        max_sessions: SaveKernel refuses while so many sessions have not ended.
        kernels: slug -> list of Session, the newest last.
        datasets: slug -> Dataset.
        competitions: slugs of those whose rules the user has accepted.
        page_size: the most files in one answer.
        dataset_polls: answers to GetDatasetStatus, after each new version, before it is ready.
        quota: `tpu`, `gpu` -> (used hours, total hours); None for what the answer leaves out.
        reserved: `tpu`, `gpu` -> hours that running sessions have set aside.
        deleted: slugs of deleted kernels.
        data_files: path of each file of the competition's data -> its bytes.
        zipped: paths of those that are sent as an archive, as Kaggle sends some large ones.
        data_sizes: path -> the size that the list tells, where it is not that of the bytes.
        downloads: (path, first byte, bytes sent) of each answer with a part of these files, in order.
        submissions: bodies of CreateCodeSubmission.
        token: what a login (not a key) has to show, None where none is known.
        renewals: how many times a login was exchanged for a new one.
        released: an event that ends all stalls.
        faults: method -> faults that `fail_next` queued and that have not happened yet.
    """

    def __init__(self, port=0):
        self.lock = threading.RLock()
        self.requests, self.arrivals, self.unknown, self.submissions = [], [], [], []
        self.released, self.token, self.renewals = threading.Event(), None, 0
        self.polls, self.dataset_polls, self.max_sessions, self.page_size = 2, 1, None, 200
        self.ends, self.outputs, self.logs = {}, {}, {}
        self.kernels, self.datasets, self.competitions = {}, {}, {COMPETITION}
        self.quota, self.quota_refresh = {"tpu": (0, 20), "gpu": (0, 30)}, datetime(2030, 1, 5)
        self.reserved, self.stuck, self.deleted = {}, {}, []
        self.data_files, self.data_sizes, self.zipped, self.downloads = {}, {}, set(), []
        self.faults = {}
        self._uploads = {}  # token -> [name, bytes or None]
        self._methods = {
            "kernels.KernelsApiService/SaveKernel": self._save_kernel,
            "kernels.KernelsApiService/GetKernel": self._get_kernel,
            "kernels.KernelsApiService/DeleteKernel": self._delete_kernel,
            "kernels.KernelsApiService/GetKernelSessionStatus": self._kernel_status,
            "kernels.KernelsApiService/ListKernelSessionOutput": self._kernel_output,
            "kernels.KernelsApiService/GetAcceleratorQuotaStatistics": self._quota,
            "datasets.DatasetApiService/GetDatasetStatus": self._dataset_status,
            "datasets.DatasetApiService/CreateDataset": self._create_dataset,
            "datasets.DatasetApiService/CreateDatasetVersion": self._create_version,
            "blobs.BlobApiService/StartBlobUpload": self._start_upload,
            "competitions.CompetitionApiService/CreateCodeSubmission": self._submit,
            "competitions.CompetitionApiService/ListDataFiles": self._list_data,
            "competitions.CompetitionApiService/DownloadDataFile": self._download_data,
            "users.AccountService/GenerateAccessToken": self._renew,
        }
        self._http = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, self))
        self.port = self._http.server_port

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home):
        """What a client's process needs in its environment to reach this server, and nothing else."""
        api = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
        api["KAGGLE_API_TOKEN"] = ""  # the developer's own would go before the key
        proxies = {"HTTP_PROXY": f"http://127.0.0.1:{self.port}", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
        proxies |= {name.lower(): value for name, value in proxies.items()}
        return {"HOME": str(home), "KAGGLE_CONFIG_DIR": f"{home}/.kaggle"} | api | proxies

    def fail_next(self, method, *faults):
        """Have the next calls of a method fail, one fault each; `files`, `data` and `uploads` name the transfers.

        A fault is ("error", text): an answer that tells of the error; ("http", status, text): an HTTP error;
        ("page", status): a page for people, as Kaggle sends to those who ask too often;
        ("cut",): no answer, nothing done; ("lost",): all done, yet no answer; ("stall",): all done, and then silence;
        ("part", n): the first n bytes of a file of `data`.
        """
        if method not in {"files", "data", "uploads"} | {path.split("/")[1] for path in self._methods}:
            raise ValueError(f"no method {method}")
        if wrong := [fault for fault in faults if FAULTS.get(fault[0]) != len(fault)]:
            raise ValueError(f"not faults: {wrong}")
        with self.lock:
            self.faults.setdefault(method, deque()).extend(faults)

    def queue_full(self, times, kind="TPU"):
        """Refuse the next pushes, as Kaggle does when an account has as many sessions as it may."""
        self.fail_next("SaveKernel", *[("error", QUEUE_FULL.format(kind, 1))] * times)

    def respond(self, verb, url, headers, content):
        """The answer to an HTTP request as (status, headers, bytes); None closes the connection without one."""
        with self.lock:
            try:
                method, answer = self._route(verb, url, headers, content)
                match fault := self.faults[method].popleft() if self.faults.get(method) else None:
                    case ("error", text):
                        return _json(200, {"error": text, "status": "error"})  # a kernel's has no status: it is ignored
                    case ("http", status, text):
                        raise Refusal(status, text)
                    case ("page", status):
                        return status, {"Content-Type": "text/html; charset=utf-8"}, PAGE
                    case ("cut",):
                        return None
                reply = answer()
                if fault and fault[0] == "part":
                    return self._part(*reply, fault[1])
            except Refusal as refusal:
                return _json(refusal.status, {"code": refusal.status, "message": str(refusal)})
        if fault == ("stall",):
            self.released.wait(60)
        return None if fault in (("lost",), ("stall",)) else reply

    def _route(self, verb, url, headers, content):
        """The method's name, which is what faults go by, and the function that answers. Only the API asks for a key."""
        host, path = urlsplit(url).hostname, urlsplit(url).path
        if host in (None, "localhost", "127.0.0.1"):
            if verb == "GET" and path.startswith("/files/"):
                return "files", partial(self._file, unquote(path.removeprefix("/files/")))
            if verb == "GET" and path.startswith("/data/"):
                return "data", partial(self._data, unquote(path.removeprefix("/data/")), headers)
            if verb == "PUT" and path.startswith("/uploads/"):
                arguments = path.removeprefix("/uploads/"), content, headers.get("Content-Range", "")
                return "uploads", partial(self._upload, *arguments)
            if verb == "POST" and (function := self._methods.get(path.removeprefix("/api/v1/"))):
                method, body = path.split("/")[-1], json.loads(content)
                self.requests.append((method, body))
                self.arrivals.append(time.monotonic())
                key = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
                if method != "GenerateAccessToken" and headers.get("Authorization") not in (
                    key,
                    f"Bearer {self.token}",
                ):
                    raise Refusal(401, "Unauthenticated")
                return method, partial(self._call, function, body)
        self.unknown.append(f"{verb} {url}")
        raise Refusal(404, f"Not found: {verb} {url}")

    def _call(self, function, body):
        answer = function(body)
        return answer if isinstance(answer, tuple) else _json(200, answer)

    # Kernels

    def _save_kernel(self, body):
        running = sum(session.ended is None for sessions in self.kernels.values() for session in sessions)
        if self.max_sessions is not None and running >= self.max_sessions:
            return {"error": QUEUE_FULL.format("TPU", self.max_sessions)}
        known = {"Dataset": self.datasets, "Kernel": self.kernels, "Competition": self.competitions}
        invalid = {kind: [] for kind in known}
        for kind, slugs in known.items():
            for source in body.get(f"{kind.lower()}DataSources", []):
                if "/".join(source.split("/")[:2]) not in slugs:  # a third part is the version
                    invalid[kind].append(source)
        slug = body["slug"]
        sessions = self.kernels.setdefault(slug, [])
        sessions.append(Session(slug, len(sessions) + 1, body, invalid))
        answer = {f"invalid{kind}Sources": sources for kind, sources in (invalid | {"Model": []}).items()}
        answer |= {"ref": f"/code/{slug}", "url": f"https://www.kaggle.com/code/{slug}", "invalidTags": []}
        return answer | {"versionNumber": len(sessions), "error": ""}

    def _session(self, owner, name, version=""):
        """The newest session of a kernel, or that of `version`; Kaggle does not tell a missing one from a private."""
        sessions = self.kernels.get(f"{owner}/{name}", [])
        for session in reversed(sessions):
            if version in ("", str(session.version)):
                return session
        raise Refusal(403, "Permission 'kernels.get' was denied")

    def _get_kernel(self, body):
        session = self._session(body["userName"], *body["kernelSlug"].split("/"))  # the slug may be `name/version`
        saved = session.body
        metadata = {name: value for name, value in saved.items() if name not in ("text", "slug", "newTitle")}
        for kind, invalid in session.invalid.items():
            sources = f"{kind.lower()}DataSources"
            metadata[sources] = [source for source in saved.get(sources, []) if source not in invalid]
        metadata |= {"id": 1 + list(self.kernels).index(session.slug), "ref": session.slug}
        metadata |= {"title": saved.get("newTitle", ""), "currentVersionNumber": session.version}
        metadata["lastRunTime"] = f"{session.began:%Y-%m-%dT%H:%M:%S.%fZ}"
        blob = {"source": saved["text"], "language": saved["language"], "kernelType": saved["kernelType"]}
        return {"metadata": metadata, "blob": blob | {"slug": session.slug.split("/")[1]}}

    def _kernel_status(self, body):
        session = self._session(body["userName"], body["kernelSlug"], _version(body))
        if session.state:
            return {"status": session.state}
        if session.ended is None:
            if session.polls and session.slug in self.stuck:
                session.status = self.stuck[session.slug]
            elif session.polls >= self.polls:
                self._end(session)
            else:
                session.status = "RUNNING" if session.polls else "QUEUED"
                session.polls += 1
        return {"status": session.status} | ({"failureMessage": FAILURE} if session.status == "ERROR" else {})

    def _delete_kernel(self, body):
        session = self._session(body["userName"], body["kernelSlug"])
        del self.kernels[session.slug]
        self.deleted.append(session.slug)
        return {}

    def _end(self, session):
        """End a session as the test has it; one that fails may have written files before."""
        end = self.ends.get(session.slug, "COMPLETE")
        session.status = end[session.version - 1] if isinstance(end, list) else end
        outputs = self.outputs.get(session.slug, {})
        session.files = dict(outputs(session.body) if callable(outputs) else outputs)
        session.log = self.logs.get(session.slug, LOG_OF_AN_ERROR if session.status == "ERROR" else LOG)
        session.ended = datetime.now(UTC)

    def _kernel_output(self, body):
        session = self._session(body["userName"], body["kernelSlug"], _version(body))
        names, answer = _page(sorted(session.files), body, self.page_size)
        address = f"http://localhost/files/{session.slug}/{session.version}/"
        answer["files"] = [{"fileName": name, "url": address + quote(name)} for name in names]
        if session.ended:
            lines = [{"stream_name": "stdout", "time": i, "data": line} for i, line in enumerate(session.log, 1)]
            answer["log"] = json.dumps(lines)
        return answer

    def _file(self, path):
        owner, name, version, file = path.split("/", 3)
        session = self._session(owner, name, version)
        if file not in session.files:
            raise Refusal(404, f"no file {file}")
        return 200, {"Last-Modified": format_datetime(session.ended, usegmt=True)}, session.files[file]

    def _quota(self, _):
        answer = {"quotaRefreshTime": f"{self.quota_refresh:%Y-%m-%dT%H:%M:%SZ}"}
        for kind, (used, total) in self.quota.items():
            times = {"timeUsed": used, "timeReserved": self.reserved.get(kind), "totalTimeAllowed": total}
            answer[f"{kind}Quota"] = {name: f"{round(h * 3600)}s" for name, h in times.items() if h is not None}
        return answer

    # Datasets

    def _dataset(self, body):
        slug = f"{body['ownerSlug']}/{body['datasetSlug']}"
        if slug not in self.datasets:
            raise Refusal(404, f"no dataset {slug}")
        return slug, self.datasets[slug]

    def _dataset_status(self, body):
        _, dataset = self._dataset(body)
        ready = dataset.waits == 0
        dataset.waits = max(0, dataset.waits - 1)
        return {"status": "READY" if ready else "NOT_YET_PERSISTED"}

    def _create_dataset(self, body):
        slug = f"{body['ownerSlug']}/{body['slug']}"
        if slug in self.datasets:
            title = body["title"]
            return {"status": "error", "error": f'The requested title "{title}" is already in use by a dataset.'}
        self.datasets[slug] = Dataset(self._uploaded(body), waits=self.dataset_polls)
        return {"status": "ok", "ref": slug, "url": f"https://www.kaggle.com/datasets/{slug}", "error": ""}

    def _create_version(self, body):
        slug, dataset = self._dataset(body)
        dataset.files, dataset.waits = self._uploaded(body["body"]), self.dataset_polls
        dataset.versions += 1
        return {"status": "ok", "ref": slug, "url": f"https://www.kaggle.com/datasets/{slug}", "error": ""}

    def _start_upload(self, body):
        token = uuid.uuid4().hex
        self._uploads[token] = [body["name"], None]
        return {"token": token, "createUrl": f"http://localhost/uploads/{token}"}

    def _upload(self, token, content, content_range):
        if token not in self._uploads:
            raise Refusal(404, "no such upload")
        if not content_range.startswith("bytes */"):
            self._uploads[token][1] = content
        arrived = self._uploads[token][1] is not None  # that range asks how much has: here all of the file, or nothing
        return 200 if arrived else 308, {}, b""

    def _uploaded(self, body):
        files = dict(self._uploads[file["token"]] for file in body.get("files", []))
        if missing := [name for name, content in files.items() if content is None]:
            raise Refusal(400, f"not uploaded: {missing}")
        return files

    # Users

    def _renew(self, _):
        self.renewals += 1
        return {"token": self.token, "expiresIn": 43200, "userName": USER}

    # Competitions

    def _require_rules(self, body):
        if body["competitionName"] not in self.competitions:
            raise Refusal(403, RULES)

    def _list_data(self, body):
        self._require_rules(body)
        names, answer = _page(sorted(self.data_files), body, self.page_size)
        sizes = {name: len(content) for name, content in self.data_files.items()} | self.data_sizes
        return answer | {"files": [{"name": name, "totalBytes": sizes[name]} for name in names]}

    def _download_data(self, body):
        self._require_rules(body)
        if body["fileName"] not in self.data_files:
            raise Refusal(404, f"no file {body['fileName']}")
        ending = ".zip" if body["fileName"] in self.zipped else ""
        return 302, {"Location": f"http://localhost/data/{quote(body['fileName'])}{ending}?signature=1"}, b""

    def _data(self, name, headers):
        """A file, or what is asked for of it if it has not changed, as Google's storage answers."""
        content, first = self._as_sent(name), 0
        tag = f'"{zlib.crc32(content)}"'
        if headers.get("If-Range", tag) == tag:
            first = int(re.sub(r"\D", "", headers.get("Range", "")) or 0)
        self.downloads.append((name, first, len(content) - first))
        about = {"ETag": tag, "Accept-Ranges": "bytes", "Last-Modified": format_datetime(CHANGED, usegmt=True)}
        return 206 if first else 200, about, content[first:]

    def _as_sent(self, name):
        if name in self.data_files:
            return self.data_files[name]
        inner, archive = name.removesuffix(".zip"), io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(inner.rpartition("/")[2], self.data_files[inner])
        return archive.getvalue()

    def _part(self, status, headers, content, length):
        """The beginning of an answer that promises more."""
        name, first, _ = self.downloads[-1]
        self.downloads[-1] = name, first, min(length, len(content))
        return status, headers | {"Content-Length": str(len(content))}, content[:length]

    def _submit(self, body):
        if body["competitionName"] != COMPETITION:
            raise Refusal(404, f"no competition {body['competitionName']}")
        self._session(body["kernelOwner"], body["kernelSlug"], str(body.get("kernelVersion", "")))
        self.submissions.append(body)
        return {"message": f"Successfully submitted to {COMPETITION}", "ref": len(self.submissions)}


def _json(status, answer):
    return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _version(body):
    """The version asked for, written v<N>, for which a bare number is not found; empty for the newest."""
    label = body.get("versionLabel", "")
    if label and not label.startswith("v"):
        raise Refusal(404, f"no version {label}")
    return label.removeprefix("v")


def _page(items, body, largest):
    """The items that a request asks for, and an answer that says where the next page starts, if there is one."""
    start = int(body.get("pageToken") or 0)
    end = start + min(body.get("pageSize", 20), largest)
    return items[start:end], {"nextPageToken": str(end)} if end < len(items) else {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, kaggle, *arguments):
        self.kaggle = kaggle
        super().__init__(*arguments)

    def handle(self):
        with contextlib.suppress(ConnectionError):  # a client that was killed
            super().handle()

    def do_POST(self):
        reply = self.kaggle.respond(self.command, self.path, self.headers, self._content())
        if reply is None:
            self.close_connection = True
            return
        status, headers, content = reply
        self.send_response(status)
        promised = headers.get("Content-Length", str(len(content)))
        for name, value in (headers | {"Content-Length": promised}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.close_connection |= promised != str(len(content))

    do_GET = do_PUT = do_POST

    def _content(self):
        """All of the request's body, so that the connection serves the next; `requests` sends an empty file chunked."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def log_message(self, *_):
        """Say nothing."""


def main():
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="the client's home directory")
    parser.add_argument("--port", type=int, default=0, help="a free one unless given")
    options = parser.parse_args()
    with KaggleServer(options.port) as server, contextlib.suppress(KeyboardInterrupt):
        for name, value in server.environment(options.home.resolve()).items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
