"A server for tests: a function says what it answers."

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cot_distill.lab_server import chat_response


class Handler(BaseHTTPRequestHandler):
    "Sends whatever the server's `reply` returns: a body, or status and body and headers."

    protocol_version, wbufsize = "HTTP/1.1", -1

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        said = self.server.reply(asked)
        status, body, headers = said if isinstance(said, tuple) else (200, said, {})
        sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(sent)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args):
        pass


class ChatServer(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.asked = reply, []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    "Start a server whose replies a function makes."
    servers = []

    def start(reply):
        servers.append(ChatServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def plain(asked, text="It is wet.\nAnswer: (A)"):
    "An ordinary reply."
    return chat_response(asked["model"], [text] * (asked.get("n") or 1), asked["messages"])


def error(message, status=400, headers=None, **more):
    "An error as OpenAI words it."
    return status, dict(error=dict(message=message) | more), headers or {}
