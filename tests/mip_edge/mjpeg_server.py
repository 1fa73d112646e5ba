"""A light HTTP server of motion JPEG for the tests: `python mjpeg_server.py PORT IMAGE...`.

Prints `ready` when it listens; each client gets the images again and again, 250 a second.
"""

import socketserver
import sys
import time
from pathlib import Path

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
images = [Path(name).read_bytes() for name in sys.argv[2:]]


class Stream(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            if not self.request.recv(4096):
                return
            self.request.sendall(HEAD)
            while True:
                for image in images:
                    self.request.sendall(PART % (len(image), image))
                    time.sleep(0.004)
        except OSError:
            return


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(sys.argv[1])), Stream) as server:
    print("ready", flush=True)
    server.serve_forever()
