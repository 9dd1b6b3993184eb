"""A server that speaks as an OpenAI-compatible one does; its judge is a function."""

import contextlib
import json
import threading

import json_server


def say(*tags, main=None, why="so"):
    """The answer of a judge that does as it is told."""
    named = main or (tags[0] if tags else "other")
    return json.dumps({"tags": list(tags), "main": named, "why": why})


class Stub:
    """Keeps what it is asked; `judge` maps the messages to an answer, or (status, text)."""

    def __init__(self, judge):
        self.judge = judge
        self.bodies, self.headers, self.paths = [], [], []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self.server = json_server.start(self.answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self, path, headers, body):
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.paths.append(path)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            said = self.judge(body["messages"])
        finally:
            with self._lock:
                self.in_flight -= 1
        if isinstance(said, tuple):
            return said
        message = {"role": "assistant", "content": said}
        return 200, json.dumps({"choices": [{"index": 0, "message": message}]})

    @property
    def questions(self):
        return [body["messages"][1]["content"] for body in self.bodies]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def serve(judge):
    """Runs a stub; `judge` is a function of the messages."""
    stub = Stub(judge)
    try:
        yield stub
    finally:
        stub.close()
