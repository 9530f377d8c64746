"""Fetches a pretrained checkpoint from the hub, and finds out within seconds that it cannot.

Knows URLs, the hub's cache and time; nothing of what is in the file.
"""

from __future__ import annotations

import http.client
import threading
import urllib.request
from pathlib import Path
from typing import cast

from export.errors import HubUnreachable

PROBE_TIMEOUT_S = 5.0
_REMEDY = "Pass a checkpoint by --weights FILE, or use --backbone scattering, which needs none."


def fetch_checkpoint(repo_id: str, filename: str = "model.safetensors") -> Path:
    """Give the local path of a hub file, from the hub's cache or downloaded into it.

    A cached file is used without a look at the network; otherwise the hub gets PROBE_TIMEOUT_S to answer.

    Raises HubUnreachable.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    cached = huggingface_hub.try_to_load_from_cache(repo_id, filename)
    if isinstance(cached, str):
        return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise HubUnreachable(f"{repo_id} is not in the hub's cache and HF_HUB_OFFLINE is set. {_REMEDY}")
    _probe(huggingface_hub.hf_hub_url(repo_id, filename), huggingface_hub.get_token())
    # The hub's HTTP client changes between releases; its error is always a base of the hub's own.
    client_errors = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    unreachable: tuple[type[Exception], ...] = (OSError, ValueError, *client_errors)
    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, filename))
    except unreachable as error:
        raise HubUnreachable(
            f"{repo_id} could not be downloaded ({type(error).__name__}). {_REMEDY}"
        ) from error


def _probe(url: str, token: str | None) -> None:
    # A thread, because name resolution, proxies and trickling servers each escape a client's own timeouts.
    outcome: list[str] = []
    probe = threading.Thread(
        target=_ask_for_one_byte, args=(url, token, outcome), daemon=True, name="hub-probe"
    )
    probe.start()
    probe.join(PROBE_TIMEOUT_S)
    refusal = outcome[0] if outcome else f"no answer within {PROBE_TIMEOUT_S:.0f} s"
    if refusal:
        raise HubUnreachable(f"The weights hub cannot be reached at {url} ({refusal}). {_REMEDY}")


def _ask_for_one_byte(url: str, token: str | None, outcome: list[str]) -> None:
    # The file itself, through every redirect: a hub whose storage is blocked is no hub.
    try:
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})  # noqa: S310 (the user's own endpoint)
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as response:  # noqa: S310
            outcome.append("" if response.read(1) else "it answers with nothing")
    except (OSError, http.client.HTTPException, ValueError) as error:
        outcome.append(str(error) or type(error).__name__)
