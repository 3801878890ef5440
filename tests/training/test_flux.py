"""Networks of flux, from a SOURCE to a catalogue: one unit, one bending, all pinned in the card."""

from __future__ import annotations

import copy
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gzsurvey import dataset
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.store import Store
from gzsurvey.errors import ExportError, TrainingError
from gzsurvey.evaluation import Given, Mixture, evaluate
from gzsurvey.export import export
from gzsurvey.inference.session import OnnxModel
from gzsurvey.model.checkpoint import find_checkpoint, load_network
from gzsurvey.model.encoder import create_encoder
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.dataset import DatasetRecipe, resolve_paths
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.recipes.preparation import Preparation, Stretch
from gzsurvey.recipes.survey import load_survey_recipe
from gzsurvey.recipes.training import AugmentationRecipe, FinetuneRecipe, PretrainRecipe
from gzsurvey.survey import Job, plan, run
from gzsurvey.training import finetune, pretrain
from gzsurvey.training.augment import augment, draw, refuse_meaningless

HERE = load_cluster("none")
SIZE, COUNT, ENCODER = 32, 80, "test_resnet"
FLUX = Stretch(kind="flux")
COLOURS_KEPT = AugmentationRecipe(jitter=0, greyscale=0)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Galaxies that the synthetic source draws by their ids, with votes."""
    rng = np.random.default_rng(0)
    votes = {f"smooth-or-featured-gz2_{answer}": rng.integers(1, 20, COUNT)
             for answer in ("smooth", "featured-or-disk", "artifact")}  # fmt: skip
    where = {"ra": rng.uniform(10, 20, COUNT), "dec": rng.uniform(-5, 5, COUNT), "r50": 2.0}
    path = tmp_path_factory.mktemp("flux") / "galaxies.csv"
    pd.DataFrame({"id": range(COUNT), **where, "label": np.arange(COUNT) % 2, **votes}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def store(catalogue: Path) -> Store:
    source = {
        "name": "sky", "campaign": "gz2", "images": "synthetic:", "catalogue": catalogue.name, "r50_column": "r50",
        "licence": "CC0", "citation": "nobody",
    }  # fmt: skip
    preparation = {"image_size": SIZE, "stretch": {"kind": "flux"}}
    made = DatasetRecipe.model_validate({"name": "flux", "preparation": preparation, "sources": [source]})
    return dataset.build(resolve_paths(made, catalogue.parent), catalogue.parent / "store")


@pytest.fixture(scope="module")
def pretrained(store: Store) -> Path:
    settings = {"encoder": {"name": ENCODER}, "batch_size": 16, "steps": 6, "augmentation": COLOURS_KEPT}
    return pretrain(PretrainRecipe.model_validate(settings), store.path, store.path.parent / "p", "cpu")


@pytest.mark.slow
def test_a_network_takes_flux_from_the_source_to_the_catalogue(
    store: Store, pretrained: Path, catalogue: Path, tmp_path: Path
) -> None:
    settings = {"views": 1, "class_names": {"0": "even", "1": "odd"}}
    recipe = FinetuneRecipe.model_validate(settings)
    out = finetune(recipe, str(pretrained), tmp_path / "out", catalogue, store.path, "cpu")
    card = export([out], tmp_path / "model.onnx")
    assert (card.input_type, card.preparation.stretch, len(card.thumbnails)) == ("float32", FLUX, 64)
    network, _ = load_network(find_checkpoint(str(out)))
    flux = np.ascontiguousarray(store.images(range(COUNT)).transpose(0, 3, 1, 2))
    assert flux.dtype == np.float32
    said = OnnxModel(tmp_path / "model.onnx", "cpu").run(flux)
    with torch.inference_mode():
        expected = network(torch.from_numpy(flux))["concentration"].numpy()
    np.testing.assert_allclose(said["concentration"], expected, rtol=1e-3)
    survey = load_survey_recipe("survey", ["preview_targets=4", "check_rows=4"])
    sources = (SourceSpec.parse("synthetic:"),)
    plan(Job(tmp_path / "model.onnx", str(catalogue), sources, survey), tmp_path / "run", HERE)
    run(tmp_path / "run", HERE)
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, COUNT)
    own = dict(zip(store.galaxies["id"].astype(int), said["concentration"], strict=True))
    catalogued = np.array([own[target] for target in rows["id"]])
    np.testing.assert_allclose(rows["concentration"], catalogued, rtol=1e-4)


@pytest.mark.slow
def test_it_is_evaluated_and_shown_as_pictures(store: Store, pretrained: Path, tmp_path: Path) -> None:
    given = Given(dataset=store.path, split="train")
    evaluate(EvaluationRecipe(), Mixture((str(pretrained),)), tmp_path / "out", given, "cpu")
    assert "data:image/png" in (tmp_path / "out/evaluation.html").read_text()


@pytest.mark.slow
def test_what_makes_no_sense_of_flux_is_refused(
    store: Store, pretrained: Path, catalogue: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="are measurements; set"):
        pretrain(PretrainRecipe(), store.path, tmp_path / "p", "cpu")
    with pytest.raises(ExportError, match="fp32 only"):
        export([pretrained], tmp_path / "model.onnx", precision="fp16")
    with zipfile.ZipFile(tmp_path / "stamps.zip", "w") as stamps:
        stamps.writestr("0.png", b"")
    with pytest.raises(TrainingError, match="holds ready pictures, and the model takes flux"):
        finetune(FinetuneRecipe(), str(pretrained), tmp_path / "f", catalogue, tmp_path / "stamps.zip", "cpu")
    per_pixel = Preparation(image_size=SIZE, stretch=Stretch(kind="flux", flux_per="pixel"))
    with pytest.raises(TrainingError, match=r"set augmentation.area=\[1,1\]"):
        refuse_meaningless(COLOURS_KEPT, per_pixel)
    refuse_meaningless(AugmentationRecipe(jitter=0, greyscale=0, area=(1, 1), aspect=(1, 1)), per_pixel)


def test_the_network_bends_flux_as_asinh_does_and_cuts_nothing() -> None:
    encoder = create_encoder(ENCODER, Preparation(image_size=SIZE, stretch=FLUX)).eval()
    plain = create_encoder(ENCODER).eval()
    plain.load_state_dict(encoder.state_dict())
    scales = torch.tensor(FLUX.scales).view(1, 3, 1, 1)
    shades = torch.linspace(-0.5, 1.5, 3 * SIZE**2).view(1, 3, SIZE, SIZE)
    black, white = np.arcsinh(FLUX.black), np.arcsinh(FLUX.white)
    flux = (torch.sinh(black + (white - black) * shades.double()) * scales).float()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(flux), plain(shades), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(encoder)(flux), encoder(flux))


def test_views_of_flux_keep_its_brightness() -> None:
    """Far from the edges, whatever is drawn: no colour is changed and nothing is cut at 0 or 1."""
    flux = torch.tensor([-3.0, 50.0, 700.0]).view(1, 3, 1, 1).expand(8, 3, SIZE, SIZE)
    seen = augment(flux, draw(COLOURS_KEPT, 8, seed=1))
    middle = seen[:, :, SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2]
    torch.testing.assert_close(middle, flux[:, :, :4, :4])
