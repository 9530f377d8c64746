"""Speaks to the API as the inspection GUI does: one role and ROI, forms and JSON, published field names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import httpx2 as httpx

Answer = httpx.Response
MM_PER_PX = "0.2"


class Client(Protocol):
    """What a test client and a network client share."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        """Send one request."""


class Gui:
    """One station's client."""

    def __init__(
        self, client: Client, role: str = "Inspection", roi: str = "inspection-1", **headers: str
    ) -> None:
        self.client = client
        self.ids = {"role_id": role, "roi_id": roi}
        self.headers = headers

    def fit(self, images: Sequence[bytes] = (), **fields: Any) -> Answer:
        """POST /fit_ok."""
        return self._form("/fit_ok", files_of(images), mm_per_px=MM_PER_PX, **fields)

    def infer(self, image: bytes, **fields: Any) -> Answer:
        """POST /infer."""
        files = [("image", ("crop.png", image, "image/png"))]
        return self._form("/infer", files, **{"mm_per_px": MM_PER_PX, **fields})

    def upload(self, label: str, images: Sequence[bytes], metas: Sequence[Any] = (), **fields: Any) -> Answer:
        """POST /datasets/{label}/upload."""
        texts = [m if isinstance(m, str) else json.dumps(m) for m in metas]
        extra = {"metas": texts} if texts else {}
        return self._form(f"/datasets/{label}/upload", files_of(images), **extra, **fields)

    def json(self, path: str, **fields: Any) -> Answer:
        """POST a JSON body with the ids."""
        return self._send("POST", path, json={**self.ids, **fields})

    def get(self, path: str, **query: Any) -> Answer:
        """GET with the ids in the query."""
        return self._send("GET", path, params={**self.ids, **query})

    def delete(self, path: str, **query: Any) -> Answer:
        """DELETE with the ids in the query."""
        return self._send("DELETE", path, params={**self.ids, **query})

    def post(self, path: str, files: Sequence[Any], **fields: Any) -> Answer:
        """POST a form with the ids."""
        return self._form(path, files, **fields)

    def _form(self, path: str, files: Sequence[Any], **fields: Any) -> Answer:
        data = {k: v for k, v in {**self.ids, **fields}.items() if v is not None}
        return self._send("POST", path, data=data, files=list(files) or None)

    def _send(self, method: str, path: str, **kwargs: Any) -> Answer:
        answer: Answer = self.client.request(method, path, headers=self.headers, **kwargs)
        return answer


def files_of(images: Sequence[bytes], field: str = "images") -> list[Any]:
    """Name images as a form's files."""
    return [(field, (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]


def ok(answer: Answer) -> dict[str, Any]:
    """Give the body of a success; fails with the server's sentence."""
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:400]}"
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: Answer, status: int, *words: str) -> dict[str, Any]:
    """Give the problem of a refusal; fails unless it has the status and its sentence holds the words."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:400]}"
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert set(body) == {
        "type", "title", "status", "detail", "error", "error_code", "request_id", "recipe_id",
    }  # fmt: skip
    assert body["detail"] == body["error"]
    assert body["status"] == status
    for word in words:
        assert word.lower() in body["detail"].lower(), body["detail"]
    return body
