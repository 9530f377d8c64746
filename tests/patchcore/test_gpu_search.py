from __future__ import annotations

import faiss
import pytest

from orchestrator.errors import GpuUnavailable
from orchestrator.launch.api import serve_api
from orchestrator.patchcore.gpu_search import require_gpu
from orchestrator.settings import load_settings

needs_no_gpu = pytest.mark.skipif(
    hasattr(faiss, "GpuIndexFlatL2") and faiss.get_num_gpus() > 0, reason="a GPU can be searched on here"
)


@needs_no_gpu
def test_without_a_gpu_the_refusal_says_what_to_do() -> None:
    with pytest.raises(GpuUnavailable, match=r"patchlight\[gpu\]|nvidia-smi") as refused:
        require_gpu()
    assert "BDI_SEARCH_DEVICE=cpu" in refused.value.message


@needs_no_gpu
def test_a_server_that_should_search_on_a_gpu_does_not_start_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDI_SEARCH_DEVICE", "GPU")
    with pytest.raises(GpuUnavailable, match="search_device: gpu"):
        serve_api(load_settings())
