"""
A plain TCP service that sends each line back: the "application" of the quick start.

It stands for whatever speaks TCP and knows nothing of certificates. Usage: line_echo.py [HOST [PORT]]
"""

from __future__ import annotations

import socketserver
import sys

LONGEST_LINE = 65536  # bytes; a longer one comes back in parts


class EchoLines(socketserver.StreamRequestHandler):
    """One connection: lines in, lines out, until the client ends its side."""

    def handle(self) -> None:
        """Send each line back."""
        while line := self.rfile.readline(LONGEST_LINE):
            self.wfile.write(line)


class EchoServer(socketserver.ThreadingTCPServer):
    """One thread per connection."""

    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say in one line what ended a connection; a reset is nothing to show a traceback for."""
        print(f"line_echo: {client_address}: {sys.exc_info()[1]}", file=sys.stderr, flush=True)


def main(host: str = "127.0.0.1", port: str = "5000") -> int:
    """Serve until interrupted."""
    try:
        server = EchoServer((host, int(port)), EchoLines)
    except OSError as error:
        print(f"line_echo: cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr)
        return 1
    with server:
        print("line_echo: listening on {}:{}".format(*server.server_address[:2]), flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
