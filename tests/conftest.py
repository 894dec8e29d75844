"""What all tests share."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]


def require(path: Path) -> Path:
    """``path``, or a skip with the reason; a failure instead of a skip when ``REQUIRE=1``."""
    if not path.exists():
        reason = f"{path.name} is not beside the project"
        if os.environ.get("REQUIRE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real review files (``../shared/data``)."""
    return require(ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def anchors() -> Path:
    """The folder of fixed splits and values (``../shared/anchors``)."""
    return require(ROOT.parent / "shared" / "anchors")


@pytest.fixture(params=["onednn", "torch"])
def library(request, monkeypatch) -> str:
    """What multiplies float32 matrices, of every size."""
    import torch

    from symcere.model import product

    if request.param == "onednn" and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is without oneDNN")
    monkeypatch.setattr(product, "LARGE", 1)
    monkeypatch.setattr(product, "_faster", lambda *_: request.param == "onednn")
    return request.param


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home of its own."""
    monkeypatch.setenv("SYMCERE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"
