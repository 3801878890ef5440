"""A run that keeps coordinates of its embeddings: the catalogue is the same, and the loss is stated."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray

from gzsurvey.card import EmbeddingReference
from gzsurvey.catalogue import read_catalogue
from gzsurvey.errors import OutputConflict
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.survey import plan, publish, run, verify
from gzsurvey.survey.record import read_record
from survey import tiny

PAGE = Path(__file__).parents[2] / "docs/how-to/astropy.md"
HERE = load_cluster("none")


def test_embeddings_may_be_kept_along_principal_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = tiny.write_targets(tmp_path / "targets.csv", 60)
    components = np.eye(tiny.FEATURES)[:3].tolist()
    reference = EmbeddingReference(
        mean=(0.1,) * tiny.FEATURES, components=components, scales=(1.0,) * 4, quantiles=tuple(np.linspace(0, 2, 101))
    )
    model = tiny.write_model(tmp_path / "model.onnx", reference=reference)
    rows = {}
    for kept, name in (("features", "full"), ("components", "run")):
        asked = tiny.job(model, targets, recipe=tiny.recipe(embedding=kept, preview_targets=4))
        planned, run_dir = plan(asked, tmp_path / name, HERE), tmp_path / name
        run(run_dir, HERE)
        publish(run_dir)
        rows[kept] = read_catalogue(run_dir)
    verify(tmp_path / "run")
    full = read_rows(tmp_path / "full/predictions.zarr", 0, 60)["embedding"].astype(float) - 0.1
    store = xarray.open_zarr(tmp_path / "run/predictions.zarr")
    assert store["embedding"].sizes == {"row": 60, "component": 4}
    np.testing.assert_allclose(store["embedding"][:, :3], full[:, :3], atol=5e-3)
    np.testing.assert_allclose(store["embedding"][:, 3], np.linalg.norm(full[:, 3:], axis=1), rtol=5e-3)
    np.testing.assert_allclose(rows["components"]["ood_distance"], rows["features"]["ood_distance"], rtol=5e-3)
    lost = store["embedding"].attrs["loss_in_sample"]
    assert lost["galaxies"] == 4
    assert 0 < lost["variance_left_out"] < 1
    assert f"{lost['variance_left_out']:.2%} of the variance" in str(planned)
    assert any("of the variance" in note for note in read_record(tmp_path / "run").notes)
    with pytest.raises(OutputConflict, match="embedding was components"):
        plan(replace(asked, recipe=tiny.recipe(preview_targets=4)), tmp_path / "run", HERE)
    monkeypatch.chdir(tmp_path)
    (snippet,) = re.findall(r"^```python components\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    known = {"store": store, "np": np}
    exec(snippet, known)
    np.testing.assert_allclose(known["features"][:, :3], full[:10, :3] + 0.1, atol=5e-3)
    np.testing.assert_allclose(known["features"][:, 3:], 0.1)
