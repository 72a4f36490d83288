"""Two servers of the kinds that IP cameras have, small and real: MJPEG over HTTP, and RTSP with RTP/JPEG (RFC 2435)."""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

RATE = 20


class Server:
    """Shows pictures in turn, for ever, at ``RATE``; ``stop`` cuts every connection, ``start`` opens the same port again."""

    handler: type[socketserver.StreamRequestHandler]
    scheme: str

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.jpegs = [cv2.imencode(".jpg", p)[1].tobytes() for p in pictures]
        self.size = pictures[0].shape[1], pictures[0].shape[0]
        self.port = 0
        self.start()

    def start(self) -> None:
        class Listening(socketserver.ThreadingTCPServer):
            allow_reuse_address, daemon_threads = True, True

        self.open: set[socket.socket] = set()
        self.server = Listening(("127.0.0.1", self.port), self.handler)
        self.server.shown = self  # type: ignore[attr-defined]
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/camera"


class _Handler(socketserver.StreamRequestHandler, ABC):
    def handle(self) -> None:
        shown: Any = self.server.shown  # type: ignore[attr-defined]
        shown.open.add(self.connection)
        with contextlib.suppress(OSError):
            self.serve(shown)
        shown.open.discard(self.connection)

    @abstractmethod
    def serve(self, shown: Server) -> None:
        """Show the pictures until the other end hangs up."""

    def heard(self) -> list[str]:
        """The lines of one request."""
        lines = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        return lines


class _Mjpeg(_Handler):
    def serve(self, shown: Server) -> None:
        self.heard()
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for jpeg in itertools.cycle(shown.jpegs):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            self.wfile.write(head.encode() + jpeg + b"\r\n")
            time.sleep(1 / RATE)


class _Rtsp(_Handler):
    def serve(self, shown: Server) -> None:
        while lines := self.heard():
            method = lines[0].split()[0]
            number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
            head, body = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n", ""
            if method == "OPTIONS":
                head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track0\r\n"
                head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            self.wfile.write(f"{head}\r\n{body}".encode())
            if method == "PLAY":
                self.play(shown)

    def play(self, shown: Server) -> None:
        for number, jpeg in enumerate(itertools.cycle(shown.jpegs)):
            tables, scan = _parts(jpeg)
            width, height = shown.size
            # Type 1: 4:2:0; Q 255: the tables are inside.
            payload = struct.pack(">IBBBB", 0, 1, 255, width // 8, height // 8) + struct.pack(">HH", 0, len(tables))
            payload += tables + scan
            rtp = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, number * 90_000 // RATE & 0xFFFFFFFF, 7) + payload
            self.wfile.write(b"$\0" + struct.pack(">H", len(rtp)) + rtp)
            time.sleep(1 / RATE)


def _parts(jpeg: bytes) -> tuple[bytes, bytes]:
    """The quantization tables and the scan of a baseline JPEG."""
    tables, at = b"", 2
    while True:
        marker, length = struct.unpack_from(">HH", jpeg, at)
        if marker == 0xFFDB:
            segment = jpeg[at + 4 : at + 2 + length]
            tables += b"".join(segment[i + 1 : i + 65] for i in range(0, len(segment), 65))
        at += 2 + length
        if marker == 0xFFDA:
            return tables, jpeg[at:-2]


class Mjpeg(Server):
    handler, scheme = _Mjpeg, "http"


class Rtsp(Server):
    handler, scheme = _Rtsp, "rtsp"
