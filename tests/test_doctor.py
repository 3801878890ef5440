"""The doctor says what is truly used, and how to mend what is not."""

from __future__ import annotations

import pytest

from gzsurvey.doctor import doctor, runtime_problem
from gzsurvey.inference.provider import cuda_devices


def test_names_versions_hardware_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GZSURVEY_TOKEN", "very-secret")
    text = doctor()
    for name in ("gzsurvey", "python", "torch", "dask", "zarr", "astropy", "ONNX Runtime", "disk of cache"):
        assert f"\n{name}" in f"\n{text}"
    assert "on the CPU            yes: CPUExecutionProvider" in text
    assert "chosen by 'auto'      yes: " in text
    assert "images at once        on the CPU 32 of 64 px, 8 of 128 px, 4 of 224 px, on each of " in text
    assert "very-secret" not in text


@pytest.mark.skipif(cuda_devices() > 0, reason="a GPU is here")
def test_without_gpu_none_is_claimed() -> None:
    text = doctor()
    assert "on a GPU              no: " in text
    assert "torch on a GPU          no: " in text


def test_conflicts_come_with_their_cure() -> None:
    both = runtime_problem(("onnxruntime-gpu", "onnxruntime"), imports=True)
    assert both is not None
    assert "pip uninstall -y onnxruntime-gpu onnxruntime && pip install onnxruntime-gpu" in both
    emptied = runtime_problem(("onnxruntime-gpu",), imports=False)
    assert emptied is not None
    assert "pip install onnxruntime-gpu" in emptied
    absent = runtime_problem((), imports=False)
    assert absent is not None
    assert "pip install onnxruntime" in absent
    assert runtime_problem(("onnxruntime",), imports=True) is None
