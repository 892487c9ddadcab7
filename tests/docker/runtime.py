"""A stand-in for vLLM that needs nothing but an interpreter. It sleeps, wakes, and tells what it was given."""

SCRIPT = """#!{python} -IS
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
asleep = False
class Handler(BaseHTTPRequestHandler):
    def answer(self):
        global asleep
        path = self.path.split("?")[0]
        if path in ("/sleep", "/wake_up"):
            asleep = path == "/sleep"
        told = {{"/is_sleeping": {{"is_sleeping": asleep}}, "/given": {{"argv": sys.argv[1:], "env": dict(os.environ)}},
            "/file": {{"text": open(sys.argv[2]).read() if os.path.isfile(sys.argv[2]) else ""}}}}
        body = json.dumps(told.get(path, {{"status": "awake"}})).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = answer
host = sys.argv[sys.argv.index("--host") + 1]
HTTPServer((host, int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
