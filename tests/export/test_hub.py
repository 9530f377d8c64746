import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from export import hub
from export.errors import HubUnreachable

Starter = Callable[[type[BaseHTTPRequestHandler]], str]
REPO = "timm/vit_small_patch14_dinov2.lvd142m"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that accepts every connection and never says a word: what a blackholed hub looks like."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        pass


class _Trickling(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        # A byte of headers now and then resets every timeout that counts from the last byte.
        for byte in b"HTTP/1.1 200":
            try:
                self.wfile.write(bytes([byte]))
                time.sleep(0.2)
            except OSError:
                return

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Starter]:
    servers: list[tuple[HTTPServer, threading.Thread]] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = HTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )


def test_a_hub_that_never_answers_is_given_up_within_six_seconds(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(silent_server, monkeypatch)
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="--weights FILE"):
        hub.fetch_checkpoint(REPO)
    assert time.monotonic() - started < 6.0


def test_the_limit_is_wall_clock_not_silence(serve: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PROBE_TIMEOUT_S", 1.0)
    _use(serve(_Trickling), monkeypatch)
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="no answer within 1 s"):
        hub.fetch_checkpoint(REPO)
    assert time.monotonic() - started < 2.0


def test_a_hub_that_refuses_is_unreachable_at_once(serve: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(serve(_Refusing), monkeypatch)
    with pytest.raises(HubUnreachable, match="403"):
        hub.fetch_checkpoint(REPO)


def test_a_closed_port_is_unreachable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    _use(f"http://127.0.0.1:{port}", monkeypatch)
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="refused"):
        hub.fetch_checkpoint(REPO)
    assert time.monotonic() - started < 2.0


def test_a_name_that_is_no_address_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    _use("not an address", monkeypatch)
    with pytest.raises(HubUnreachable):
        hub.fetch_checkpoint(REPO)


def test_offline_mode_is_respected_without_a_look_at_the_network(
    silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(silent_server, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        hub.fetch_checkpoint(REPO)
    assert time.monotonic() - started < 1.0


def test_cached_weights_need_no_hub(
    empty_cache: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(silent_server, monkeypatch)
    repository = empty_cache / ("models--" + REPO.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"weights")
    started = time.monotonic()
    assert hub.fetch_checkpoint(REPO) == snapshot / "model.safetensors"
    assert time.monotonic() - started < 1.0
