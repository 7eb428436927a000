"""A stand-in for Google Cloud Storage that TensorFlow's own `gs://` file system talks to over TLS.

It is a proxy on loopback: TensorFlow (libcurl) asks it to CONNECT to www.googleapis.com and storage.googleapis.com, and
it answers itself, with a certificate made for them by `openssl`. `environment()` is what a client needs for that.

What TensorFlow asks for (tsl/platform/cloud/gcs_file_system.cc, google_auth_provider.cc):
    GET www.googleapis.com/storage/v1/b/BUCKET/o?prefix=...&delimiter=%2F   names below a folder
    GET www.googleapis.com/storage/v1/b/BUCKET/o/OBJECT?fields=...          size, generation, time of an object
    GET storage.googleapis.com/BUCKET/OBJECT, with a Range                  its bytes
    POST www.googleapis.com/oauth2/v4/token                                 a token for what a key file signed
    GET metadata.google.internal/..., without TLS                           a token on Google's own machines
"""

import base64
import contextlib
import json
import ssl
import subprocess
import threading
from collections import Counter, deque
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
TOKEN = "a-token-for-the-key-file"
PAGE_SIZE = 5  # names in one answer: few, so that every list has several


def make_certificate(folder):
    """Make a certificate for Google's hosts and the key of an account; return their paths and that of its public half.

    Raises:
        FileNotFoundError: there is no `openssl`.
    """
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOSTS[0]}"]
    _openssl(*request, "-addext", f"subjectAltName={names}", "-keyout", folder / "key.pem", "-out", folder / "cert.pem")
    _openssl("genrsa", "-out", folder / "account.pem", "2048")
    _openssl("rsa", "-in", folder / "account.pem", "-pubout", "-out", folder / "public.pem")
    return folder


def write_key_file(path, certificate):
    """Write the key file of the account that may read private buckets of a server with that certificate."""
    key = (certificate / "account.pem").read_text()
    account = {"type": "service_account", "client_email": "reader@example.com", "client_id": "1"}
    path.write_text(json.dumps(account | {"private_key": key, "private_key_id": "2"}))
    return path


def _openssl(*arguments):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class StorageServer:
    """Buckets, faults, and a record of every request. In a `with` statement it serves.

    Attributes:
        objects: (bucket, name) -> bytes.
        private: buckets that only the account may read.
        requests: (kind, name) of each request in order: `list`, `stat`, `read`, `token`, `metadata`, `bucket`.
        sent: bytes of objects that were sent, by name.
        unknown: what was asked for that does not exist here.
        faults: kind -> what happens to its next requests; see `fail`.
        before_read: called with the name before the bytes of an object are sent.
    """

    def __init__(self, certificate):
        self.certificate = certificate
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        self.objects, self.private, self.generations = {}, set(), Counter()
        self.requests, self.unknown, self.sent, self.faults = [], [], Counter(), {}
        self.before_read = lambda name: None
        self.released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.port = self._http.server_port

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home):
        """What a client's process needs in its environment, and (None) what it must not have.

        The proxy, the certificate, no account of anybody, and no waiting between two attempts.
        """
        own = {"CURL_CA_BUNDLE": str(self.certificate / "cert.pem"), "HOME": str(home), "NO_PROXY": "", "no_proxy": ""}
        own |= dict.fromkeys(
            ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{self.port}"
        )
        set_by_flowerlib = ("MAX_RETRIES", "CONNECTION_TIMEOUT_SECS", "IDLE_TIMEOUT_SECS")
        unset = ("NO_GCE_CHECK", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG", "GOOGLE_AUTH_TOKEN_FOR_TESTING")
        unset += tuple(f"GCS_{kind}_{name}" for kind in ("RETRY_CONFIG", "REQUEST") for name in set_by_flowerlib)
        return dict.fromkeys(unset) | own | {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0"}

    def put(self, bucket, folder, at=""):
        """Put the files of a folder into a bucket, below `at`."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.replace(bucket, f"{at}{path.relative_to(folder).as_posix()}", path.read_bytes())

    def replace(self, bucket, name, content):
        """Put an object in place of the one of that name."""
        self.generations[bucket, name] += 1
        self.objects[bucket, name] = content

    def fail(self, kind, *faults):
        """Have the next requests of a kind fail, one fault each; the last one for ever if it is followed by `...`.

        A fault is an HTTP status, `"cut"` (half of the answer), or seconds of silence before the answer.
        """
        self.faults[kind] = deque(faults)

    def next_fault(self, kind):
        waiting = self.faults.get(kind)
        if not waiting:
            return None
        if len(waiting) == 2 and waiting[1] is ...:
            return waiting[0]
        return waiting.popleft()

    def respond(self, method, host, target, headers, body):
        """The kind of a request, what it is about, and the answer as (status, headers, bytes)."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        parts = path.split("/")
        if host == "metadata.google.internal":
            return "metadata", path, (404, {}, b"")
        if host == HOSTS[0] and path == "/oauth2/v4/token":
            return "token", "", self._token(body)
        if host == HOSTS[0] and path.startswith("/storage/v1/b/"):
            bucket, name = parts[4], unquote("/".join(parts[6:]))
            kind = "stat" if name else "list" if len(parts) > 5 else "bucket"
        elif host == HOSTS[1]:
            bucket, name, kind = parts[1], unquote("/".join(parts[2:])), "read"
        else:
            self.unknown.append(f"{method} {host}{target}")
            return "unknown", target, (400, {}, b"")
        if refusal := self._refusal(bucket, name, kind, headers):
            return kind, name, refusal
        answer = {"list": self._list, "stat": self._stat, "read": self._read}[kind]
        return kind, name, answer(bucket, name, query, headers)

    def _refusal(self, bucket, name, kind, headers):
        """Why a request is refused, None if it is not; of a bucket itself the public may know nothing."""
        account = headers.get("Authorization") == f"Bearer {TOKEN}"
        if not account and (bucket in self.private or kind == "bucket"):
            return _error(401 if "Authorization" not in headers else 403, "Anonymous caller does not have access.")
        if not any(bucket == each for each, _ in self.objects):
            return _error(404, "The specified bucket does not exist.")
        if kind in ("stat", "read") and (bucket, name) not in self.objects:
            return _error(404, f"No such object: {bucket}/{name}")
        return None

    def _list(self, bucket, _, query, headers):
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [None])[0]
        names = {name for each, name in self.objects if each == bucket and name.startswith(prefix)}
        if delimiter:
            names = {_up_to(name, prefix, delimiter) for name in names}
        start, most = query.get("pageToken", [""])[0], min(PAGE_SIZE, int(query.get("maxResults", [PAGE_SIZE])[0]))
        left = sorted(name for name in names if name > start)
        page = left[:most]
        found = {"items": [{"name": name} for name in page if not delimiter or not name.endswith("/")]}
        found["prefixes"] = [name for name in page if delimiter and name.endswith("/")]
        found = {key: value for key, value in found.items() if value}
        return _json(found | ({"nextPageToken": page[-1]} if len(left) > most else {}))

    def _stat(self, bucket, name, query, headers):
        number = self.generations[bucket, name]
        updated = datetime(2026, 1, 1, 0, 0, number, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return _json({"size": str(len(self.objects[bucket, name])), "generation": str(number), "updated": updated})

    def _read(self, bucket, name, query, headers):
        self.before_read(name)
        content = self.objects[bucket, name]
        first, _, last = headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1 if last else None]
        if not part and content:
            return 416, {}, b""
        self.sent[name] += len(part)
        told = {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"}
        return 206, told, part

    def _token(self, body):
        """A token for a claim that the account's key has signed."""
        assertion = parse_qs(body.decode())["assertion"][0]
        signed, _, signature = assertion.rpartition(".")
        (self.certificate / "signature").write_bytes(base64.urlsafe_b64decode(signature + "=="))
        (self.certificate / "signed").write_text(signed)
        verify = ["dgst", "-sha256", "-verify", self.certificate / "public.pem"]
        try:
            _openssl(*verify, "-signature", self.certificate / "signature", self.certificate / "signed")
        except subprocess.CalledProcessError:
            return _error(400, "invalid_grant")
        return _json({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600})


def _up_to(name, prefix, delimiter):
    """A name, or the folder that it lies in below the prefix."""
    inner, slash, _ = name[len(prefix) :].partition(delimiter)
    return f"{prefix}{inner}{slash}"


def _json(answer, status=200):
    return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _error(status, message):
    return _json({"error": {"code": status, "message": message}}, status)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    host = None

    def __init__(self, storage, *arguments):
        self.storage = storage
        super().__init__(*arguments)

    def handle(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # a client that was killed or distrusts us
            super().handle()

    def finish(self):
        super().finish()
        self.connection.close()

    def do_CONNECT(self):
        """Be the host that the client wants to be connected to, from here on in TLS."""
        self.send_response(200)
        self.end_headers()
        self.host = self.path.partition(":")[0]
        self.connection = self.storage.context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self):
        storage = self.storage
        body = self._content()
        host = self.host or urlsplit(self.path).hostname
        kind, name, (status, headers, content) = storage.respond(self.command, host, self.path, self.headers, body)
        storage.requests.append((kind, name))
        fault = storage.next_fault(kind)
        if isinstance(fault, float):
            storage.released.wait(fault)
        elif isinstance(fault, int):
            status, headers, content = _error(fault, "a fault")
        self.send_response(status)
        for header, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = fault == "cut"

    do_POST = do_GET

    def _content(self):
        """The request's body; TensorFlow sends it chunked, and names a length as well."""
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
