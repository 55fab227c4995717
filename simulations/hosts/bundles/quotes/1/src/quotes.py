import importlib.metadata
import sys
from wsgiref.simple_server import make_server


def answer(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    version = importlib.metadata.version("quotes")
    return [f"quotes {version} of {sys.prefix}\n".encode()]


if __name__ == "__main__":
    make_server("127.0.0.1", 8083, answer).serve_forever()
