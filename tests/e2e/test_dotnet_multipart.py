"""The published client's multipart bodies, byte for byte, on every form route.

.NET writes unquoted names, a quoted boundary, a content type on every text part, and each file's name twice.
"""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from starlette.testclient import TestClient

from tests.gui import Answer, ok
from tests.pictures import bad, good

BOUNDARY = "6a1f8c2e-3b7d-4c55-9a40-f2a9d0c1e7b3"
TEXT = "text/plain; charset=utf-8"
Fields = dict[str, str]
Files = list[tuple[str, str, bytes]]


def body_of(fields: Fields, files: Files, metas: list[str]) -> bytes:
    parts = [
        f"Content-Type: {TEXT}\r\nContent-Disposition: form-data; name={name}\r\n\r\n{value}".encode()
        for name, value in fields.items()
    ]
    for field, name, data in files:
        disposition = f"form-data; name={field}; filename={name}; filename*=utf-8''{name}"
        head = f"Content-Type: image/png\r\nContent-Disposition: {disposition}\r\n\r\n"
        parts.append(head.encode() + data)
    parts += [
        b"Content-Type: application/json; charset=utf-8\r\n"
        b"Content-Disposition: form-data; name=metas\r\n\r\n" + meta.encode()
        for meta in metas
    ]
    lines = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return lines + b"--" + BOUNDARY.encode() + b"--\r\n"


def archive(images: list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for index, image in enumerate(images):
            packed.writestr(f"deep/er/{index}.png", image)
    return buffer.getvalue()


IDS = {"role_id": "Inspección", "roi_id": "inspection-1"}
FIT = {**IDS, "mm_per_px": "0.2", "memory_fit": "false", "model_key": "inspection-1"}
ROUTES: list[tuple[str, Fields, Files, list[str]]] = [
    ("/datasets/ok/upload", IDS, [("images", "roi_1.png", good(1)[0])], [json.dumps({"mm_per_px": 0.2})]),
    ("/datasets/ng/upload", IDS, [("images", "roi_2.png", bad(1)[0])], [json.dumps({"mm_per_px": 0.2})]),
    ("/send_ng", {**IDS, "mm_per_px": "0.2"}, [("images", "roi_3.png", bad(2)[1])], []),
    ("/infer", {**FIT, "shape": '{"kind":"rect"}'}, [("image", "roi_4.png", good(1)[0])], []),
    ("/explain", {**FIT, "shape": '{"kind":"rect"}'}, [("image", "roi_4.png", good(1)[0])], []),
    ("/predict", {**IDS, "mm_per_px": "0.2"}, [("image", "roi_5.png", good(1)[0])], []),
    ("/predict/", IDS, [("image", "roi_5.png", good(1)[0])], []),
    ("/predict/batch", IDS, [("images", f"{i}.png", good(2)[i]) for i in range(2)], []),
    ("/predict/zip", IDS, [("zip_file", "crops.zip", archive(good(2)))], []),
    ("/fit_ok", FIT, [("images", "roi_6.png", good(1, start=9)[0])], []),
]


@pytest.fixture
def fitted(client: TestClient) -> TestClient:
    """Give a server whose target was fitted by the published client."""
    files: Files = [("images", f"roi_{i}.png", image) for i, image in enumerate(good(4))]
    ok(send(client, "/fit_ok", FIT, files, []))
    return client


def send(client: TestClient, path: str, fields: Fields, files: Files, metas: list[str]) -> Answer:
    answer: Answer = client.post(
        path,
        content=body_of(fields, files, metas),
        headers={"Content-Type": f'multipart/form-data; boundary="{BOUNDARY}"'},
    )
    return answer


def test_the_published_client_s_forms_are_read_on_every_form_route(fitted: TestClient) -> None:
    for path, fields, files, metas in ROUTES:
        answer = send(fitted, path, fields, files, metas)
        assert answer.status_code == 200, f"{path}: {answer.text[:400]}"
    forms = {
        path
        for path, operations in fitted.get("/openapi.json").json()["paths"].items()
        for operation in operations.values()
        if "multipart/form-data" in operation.get("requestBody", {}).get("content", {})
    }
    assert forms == {path for path, *_ in ROUTES} - {"/predict/"}


def test_a_dataset_fit_without_files_is_read(fitted: TestClient) -> None:
    assert ok(send(fitted, "/fit_ok", {**FIT, "use_dataset": "true"}, [], []))["bank_generation"] == 2


def test_its_sidecars_come_back_as_it_reads_them(fitted: TestClient) -> None:
    meta = {"mm_per_px": 0.2, "angle": 1.5, "filename": "own.png", "shape_json": '{"kind":"rect"}'}
    files: Files = [("images", "roi.png", good(1, start=77)[0])]
    (name,) = ok(send(fitted, "/datasets/ok/upload", IDS, files, [json.dumps(meta)]))["saved"]
    stored = ok(fitted.get("/datasets/meta", params={**IDS, "label": "ok", "filename": name}))
    assert {k: stored[k] for k in meta} == meta
    assert stored["role_id"] == "Inspección"
