"""A server that answers POST requests with what a test's function returns."""

import http.server
import json
import threading


def start(answer):
    """Serves `answer(path, headers, body) -> (status, text)`, in a thread for each call.

    The whole request is read first: a connection that is closed with unread input is
    reset. The caller ends it with `shutdown` and `server_close`.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            size = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(size))
            status, text = answer(self.path, dict(self.headers), body)
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # the client may have hung up
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
