"""A server in front of an object store's: it counts requests, delays them, breaks off, and speaks Google's XML for one
that only speaks JSON."""

import dataclasses
import http.client
import http.server
import threading
import time
import urllib.parse

# Headers that belong to one connection.
HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str

    def reads_data_file(self):
        return self.method == "GET" and ".parquet" in self.path and "_delta_log" not in self.path


class Front:
    """Forwards requests to `target`, a host and port, from a port of its own choice."""

    def __init__(self, target, translate=None):
        self.delay_seconds = 0.0
        self.is_down = False
        self.requests = []
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                front.requests.append(Request(self.command, urllib.parse.unquote(self.path)))
                if front.is_down:
                    self.close_connection = True
                    return
                time.sleep(front.delay_seconds)
                method, path, headers = self.command, self.path, dict(self.headers.items())
                if translate:
                    method, path = translate(method, path, headers)
                connection = http.client.HTTPConnection(target, timeout=60)
                try:
                    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
                    for name, value in headers.items():
                        if name.lower() not in HOP_HEADERS:
                            connection.putheader(name, value)
                    connection.putheader("content-length", str(len(body)))
                    connection.endheaders(body)
                    answer = connection.getresponse()
                    content = answer.read()
                    self.send_response(answer.status)
                    for name, value in answer.getheaders():
                        if name.lower() not in HOP_HEADERS:
                            self.send_header(name, value)
                    # Stores that speak JSON forget what readers of XML rely on.
                    for name, value in [("ETag", '"none"'), ("Last-Modified", self.date_time_string())]:
                        if translate and answer.status < 300 and not answer.getheader(name):
                            self.send_header(name, value)
                    length = answer.getheader("content-length") if self.command == "HEAD" else len(content)
                    self.send_header("content-length", str(length or 0))
                    self.end_headers()
                    self.wfile.write(content)
                finally:
                    connection.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                # A client that was killed.
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:{}".format(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take_requests(self):
        """The requests since the last call."""
        taken, self.requests = self.requests, []
        return taken

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def as_it_is(method, path, _):
    """For stores whose answers need what the front adds, and whose requests do not."""
    return method, path


def google_json(method, path, headers):
    """A whole object's upload in Google's XML API, as one in its JSON API."""
    bucket, _, name = path.removeprefix("/").partition("/")
    if method != "PUT" or not name or "?" in name:
        return method, path
    query = {"uploadType": "media", "name": urllib.parse.unquote(name)}
    for header in list(headers):
        if header.lower() == "x-goog-if-generation-match":
            query["ifGenerationMatch"] = headers.pop(header)
    return "POST", f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
