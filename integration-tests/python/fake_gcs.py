"""A server of Google Cloud Storage's XML API on loopback, with one bucket in memory.

It checks the tokens, JWTs that the service account of `credential()` signed with its key, and URLs that it signed. Listings come two
objects a page.
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

EMAIL = "loader@stevedore-tests.iam.gserviceaccount.com"
PAGE = 2


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class FakeGcs:
    """Runs from entering a `with` block until leaving it."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.objects = {}
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.generation = 0

    def put(self, name, content):
        self.generation += 1
        self.objects[name] = (content, self.generation, datetime.now(timezone.utc).replace(microsecond=0))

    def credential(self, key=None):
        """A key file as Google makes them, in base64."""
        pem = (key or self.key).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = {
            "type": "service_account", "project_id": "stevedore-tests", "private_key_id": "1",
            "private_key": pem.decode(), "client_email": EMAIL,
        }
        return base64.b64encode(json.dumps(file).encode()).decode()

    def trusts(self, authorization):
        try:
            head, claims, signature = authorization.removeprefix("Bearer ").split(".")
            self.key.public_key().verify(
                decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except (ValueError, InvalidSignature):
            return False
        return json.loads(decoded(claims))["iss"] == EMAIL

    def signed(self, method, host, url):
        """Whether the account signed this request: V4 signatures in the query."""
        query, _, signature = url.query.rpartition("&X-Goog-Signature=")
        fields = dict(urllib.parse.parse_qsl(query))
        request = "\n".join([method, url.path, query, f"host:{host}\n", "host", "UNSIGNED-PAYLOAD"])
        email, _, scope = fields["X-Goog-Credential"].partition("/")
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = "\n".join([fields["X-Goog-Algorithm"], fields["X-Goog-Date"], scope, digest])
        try:
            self.key.public_key().verify(
                bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except (ValueError, InvalidSignature):
            return False
        return email == EMAIL

    def __enter__(self):
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body=b"", headers=()):
                self.send_response(status)
                headers = dict(headers)
                headers.setdefault("Content-Length", str(len(body)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def error(self, status, code):
                self.answer(status, f"<Error><Code>{code}</Code></Error>".encode())

            def serve(self):
                url = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
                bucket, _, name = urllib.parse.unquote(url.path.lstrip("/")).partition("/")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                signed = "X-Goog-Signature" in query and store.signed(self.command, self.headers["Host"], url)
                if not signed and not store.trusts(self.headers.get("Authorization", "")):
                    return self.error(401, "AuthenticationRequired")
                if bucket != store.bucket:
                    return self.error(404, "NoSuchBucket")
                if not name:
                    return self.list(query)
                if self.command == "PUT":
                    store.put(name, body)
                    return self.answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
                found = store.objects.get(name)
                if found is None:
                    return self.error(404, "NoSuchKey")
                if self.command == "DELETE":
                    del store.objects[name]
                    return self.answer(204)
                return self.content(query, *found)

            def list(self, query):
                after = query.get("continuation-token", "")
                names = sorted(n for n in store.objects if n.startswith(query.get("prefix", "")) and n > after)
                page, rest = names[:PAGE], names[PAGE:]
                contents = "".join(
                    f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
                    f"<LastModified>{at.isoformat().replace('+00:00', 'Z')}</LastModified>"
                    f"<ETag>\"{hashlib.md5(content).hexdigest()}\"</ETag></Contents>"
                    for name in page for content, _, at in [store.objects[name]]
                )
                more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
                self.answer(200, f"<ListBucketResult>{contents}{more}</ListBucketResult>".encode())

            def content(self, query, content, generation, at):
                etag = f'"{hashlib.md5(content).hexdigest()}"'
                if query.get("generation", str(generation)) != str(generation):
                    return self.error(404, "NoSuchKey")
                if self.headers.get("If-Match", etag) != etag:
                    return self.error(412, "PreconditionFailed")
                headers = {
                    "ETag": etag, "Last-Modified": format_datetime(at, usegmt=True),
                    "x-goog-generation": str(generation),
                }
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if self.command == "HEAD" or not asked:
                    return self.answer(200, content, headers)
                part = content[int(asked[1]):int(asked[2]) + 1]
                headers["Content-Range"] = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}"
                self.answer(206, part, headers)

            do_GET = do_HEAD = do_PUT = do_DELETE = serve

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
