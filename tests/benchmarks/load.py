"""HTTP load on a server: keep-alive clients that post prepared bodies and time the answers."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from orchestrator.demo.drawing import draw_part

FORM = {"role_id": "bench", "roi_id": "part", "mm_per_px": "0.1"}
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Body:
    """A request body, encoded once so that the client's own work stays out of the figures."""

    content_type: str
    data: bytes


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            address.hostname or "127.0.0.1", address.port, timeout=_TIMEOUT_S
        )

    def post(self, path: str, body: Body) -> tuple[dict[str, Any], float]:
        """Post and give the answer and the milliseconds until its last byte.

        Raises RuntimeError where the status is not 200.
        """
        started = time.perf_counter()
        self._connection.request("POST", path, body.data, {"Content-Type": body.content_type})
        response = self._connection.getresponse()
        content = response.read()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if response.status != http.client.OK:
            raise RuntimeError(
                f"POST {path} answered {response.status}: {content[:500].decode(errors='replace')}"
            )
        answer: dict[str, Any] = json.loads(content)
        return answer, elapsed_ms

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Client:
        """Connect at the first request."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def draw_pngs(count: int, *, first_seed: int) -> list[bytes]:
    """Draw good demo parts, encoded as PNG."""
    return [
        cv2.imencode(".png", cv2.cvtColor(draw_part(seed).image, cv2.COLOR_RGB2BGR))[1].tobytes()
        for seed in range(first_seed, first_seed + count)
    ]


def form(fields: Mapping[str, str], files: Sequence[tuple[str, bytes]]) -> Body:
    """Encode a multipart form. files: (field, PNG)."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for index, (name, data) in enumerate(files):
        head = f'Content-Disposition: form-data; name="{name}"; filename="{index:03d}.png"'
        parts.append(f"--{boundary}\r\n{head}\r\nContent-Type: image/png\r\n\r\n".encode() + data + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={boundary}", b"".join(parts))


def infer_body(png: bytes) -> Body:
    """Encode an `/infer` request."""
    return form(FORM, [("image", png)])


def fit_body(pngs: Sequence[bytes], *, roi_id: str = FORM["roi_id"]) -> Body:
    """Encode a `/fit_ok` request."""
    return form({**FORM, "roi_id": roi_id}, [("images", png) for png in pngs])


def json_body(content: Mapping[str, Any]) -> Body:
    """Encode a JSON request."""
    return Body("application/json", json.dumps(content).encode())


def throughput(url: str, bodies: Sequence[Body], *, clients: int) -> float:
    """Post every body to `/infer` once, from `clients` connections at a time: requests per second.

    Raises what a client raised first.
    """
    waiting = iter(bodies)
    take, failures = threading.Lock(), list[BaseException]()

    def work() -> None:
        try:
            with Client(url) as client:
                while not failures:
                    with take:
                        body = next(waiting, None)
                    if body is None:
                        return
                    client.post("/infer", body)
        except BaseException as error:
            # Raised again in the caller's thread.
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started
    if failures:
        raise failures[0]
    return len(bodies) / elapsed_s


def p50(values: Sequence[float]) -> float:
    """Give the median."""
    return float(np.median(np.asarray(values)))
