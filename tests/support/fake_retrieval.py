"""A retrieval server on a real socket for tests: any dialect, a corpus of four words, faults on demand."""

import contextlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ("oslo", "rome", "bergen", "paris")


def document(number, **more):
    return {"id": str(number), "contents": f'"{WORDS[number].title()}"\nAbout {WORDS[number]}.', **more}


def matches(query):
    """Numbers of the documents whose word is in the query."""
    return [number for number, word in enumerate(WORDS) if word in query.lower()]


class FakeRetrieval:
    """A retrieval server on a real socket that speaks one dialect and fails on demand; use as a context manager.

    Attributes:
        seen: (path, body) of every request to a search path.
        faults: what happens to the next requests after the introduction, in order: a number of seconds (late by so
            much), "die" (connection cut), "truncated", "drip" (a byte now and then, without end), "drip headers" (the
            same before the answer begins), (status, text), or a function that changes the answer.
        stay: a fault that stays.
    """

    def __init__(self, dialect="search-r1", port=0, health=None):
        self.dialect, self.health = dialect, health
        self.seen, self.faults, self.stay = [], [], None
        self._connections = []
        self.most_at_once, self._busy, self._lock = 0, 0, threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body leave together, or the other side waits for the second

            def log_message(self, *_):
                pass

            def do_GET(self):
                fake.get(self)

            def do_POST(self):
                fake.post(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_):
                pass

            def get_request(self):
                connection, address = super().get_request()
                fake._connections.append(connection)
                return connection, address

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:  # those kept alive would go on being answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def get(self, handler):
        if self.health is None:
            self._send(handler, 404, b"not found")
        else:
            self._send(handler, 200, json.dumps(self.health).encode())

    def post(self, handler, body):
        with self._lock:
            self.seen.append((handler.path, body))
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
            fault = self.faults.pop(0) if self.faults else self.stay
        try:
            self._respond(handler, body, fault)
        finally:
            with self._lock:
                self._busy -= 1

    def _respond(self, handler, body, fault):
        if isinstance(fault, tuple):
            return self._send(handler, fault[0], fault[1].encode())
        if isinstance(fault, int | float):
            time.sleep(fault)
        status, answer = self.route(handler.path, body)
        if callable(fault):
            answer = fault(answer)
        data = json.dumps(answer).encode()
        if fault == "truncated":
            data = data[: len(data) // 2]
        if fault == "drip headers":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(200):
                handler.wfile.write(b"a")
                handler.wfile.flush()
                time.sleep(0.02)
            handler.close_connection = True
            return None
        if fault in ("die", "drip"):
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data) + 1000))
            handler.end_headers()
            for _ in range(200 if fault == "drip" else 1):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.02)
            handler.close_connection = True
            return None
        return self._send(handler, status, data)

    def _send(self, handler, status, data):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def route(self, path, body):
        """The answer of a server of the dialect."""
        if self.dialect == "search-r1" and path == "/retrieve":
            if not isinstance(body.get("queries"), list):
                return 422, {"detail": "queries: field required"}
            return 200, {"result": [self._scored(query, body["topk"]) for query in body["queries"]]}
        if self.dialect == "verl-agent" and path == "/retrieve":
            if not isinstance(body.get("query"), str):
                return 500, {"detail": "KeyError: query"}
            return 200, {"result": [self._scored(body["query"], body["topk"])]}
        if self.dialect.startswith("flashrag"):
            bare = self.dialect.endswith("bare")
            if path == "/batch_search" and "one" not in self.dialect:
                found = [self._scored(query, body["top_n"]) for query in body["query"]]
                lists = [[item["document"] for item in items] for items in found]
                return 200, lists if bare else [lists, [[item["score"] for item in items] for items in found]]
            if path == "/search" and isinstance(body["query"], str):
                items = self._scored(body["query"], body["top_n"])
                documents = [item["document"] for item in items]
                return 200, documents if bare else [documents, [item["score"] for item in items]]
            if path == "/search":
                return 422, {"detail": "query: str type expected"}
        return 404, {"detail": "Not Found"}

    def _scored(self, query, k):
        found = matches(query)[:k]
        return [{"document": document(number), "score": 9.5 - place} for place, number in enumerate(found)]
