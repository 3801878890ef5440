"""How well `ood_distance` tells real stars, artefacts, blank sky and other surveys' pictures from real galaxies.

::

    python tests/benchmarks/bench_outliers_real.py PRETRAINED STORE DATA

PRETRAINED is a checkpoint of real galaxies, STORE holds their test split, DATA is laid out as docs/how-to/real-sky.md
says. The KiDS/VIKING field is classified as a survey is; its detections are named by their measured size and
signal-to-noise, not by eye. Pictures of other surveys are prepared as those that trained the model. Prints the ROC-AUC
of each kind against the test split's galaxies, and against the field's own, with 95 % bootstrap intervals, and how long
it took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from astropy.table import Table, vstack
from bench_outliers import auc_with_interval
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from gzsurvey import read_catalogue
from gzsurvey.cutouts.collection import decode, open_collection
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.store import Store
from gzsurvey.export import export
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.model.checkpoint import find_checkpoint, load_network
from gzsurvey.outliers import embedding_distance
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.survey import load_survey_recipe
from gzsurvey.sky.columns import ColumnChoices
from gzsurvey.survey import classify
from gzsurvey.survey.job import Job
from gzsurvey.training.describe import embed

FIRST_BLANK = 900_000
BLANKS = 150
NOTHING_WITHIN_PX = 30
EDGE_PX = 60
STRIPES_PX = 900
"""Columns of the field below this hold bleeding trails."""
FIELD_KINDS = ("star", "artefact", "blank sky", "galaxy")
Distances = NDArray[np.float64]


def main() -> None:
    """Measure all kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("store", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    network, info = load_network(find_checkpoint(options.checkpoint))
    reference = info.embedding_reference
    assert reference is not None

    def distances(images: NDArray[np.uint8]) -> tuple[Distances, Distances]:
        return embedding_distance(embed(network, [images], torch.device("cpu")), reference)

    store = Store(options.store)
    galaxies, scores = distances(store.images(store.rows("test")))
    with tempfile.TemporaryDirectory() as folder:
        field = classified_field(options.checkpoint, options.data / "survey_field_kids_viking", Path(folder))
    own, _ = field["galaxy"]
    print(f"| | number | ROC-AUC against {len(galaxies)} test galaxies | against the field's {len(own)} | median "
          "`ood_score` |\n|---|---|---|---|---|")  # fmt: skip
    print(f"| test galaxies | {len(galaxies)} | | | {np.median(scores):.2f} |")
    for kind in FIELD_KINDS:
        found, score = field[kind]
        against = "" if kind == "galaxy" else auc_with_interval(found, own)
        print(f"| field: {kind} | {len(found)} | {auc_with_interval(found, galaxies)} | {against} | "
              f"{np.median(score):.2f} |")  # fmt: skip
    for survey, pictures in other_surveys(options.data):
        found, score = distances(np.stack([prepare_picture(picture, info.preparation) for picture in pictures]))
        print(
            f"| pictures: {survey} | {len(found)} | {auc_with_interval(found, galaxies)} | | {np.median(score):.2f} |"
        )
    print(f"\n{time.process_time():.0f} CPU s, {time.perf_counter() - began:.0f} s")


def classified_field(checkpoint: str, field: Path, folder: Path) -> dict[str, tuple[Distances, Distances]]:
    """Return distances and scores of the field's detections, and of positions without any, by kind."""
    detections = Table.read(field / "detections_r.fits")
    targets = vstack([detections["id", "ra", "dec", "r50_pix"], blank_positions(detections)])
    targets.write(folder / "targets.fits")
    export([checkpoint], folder / "model.onnx")
    job = Job(
        model=folder / "model.onnx",
        targets=str(folder / "targets.fits"),
        sources=(SourceSpec.parse(f"mosaic:{field}/kids_viking_{{band}}.fits", ("g", "r", "Z"), (0.0, 0.0, 30.0)),),
        recipe=load_survey_recipe("survey"),
        columns=ColumnChoices(size="r50_pix", size_unit="pix"),
    )
    classify(job, folder / "run", load_cluster("none"))
    catalogue = read_catalogue(folder / "run")
    kind = kinds(np.asarray(catalogue["id"]), detections)
    distance, score = (
        np.ma.filled(np.ma.asarray(catalogue[name], float), np.nan) for name in ("ood_distance", "ood_score")
    )
    rows = {name: (kind == name) & np.isfinite(distance) for name in FIELD_KINDS}
    return {name: (distance[chosen], score[chosen]) for name, chosen in rows.items()}


def blank_positions(detections: Table) -> Table:
    """Draw positions away from every detection, with the size of a median one."""
    rng, ends = np.random.default_rng(0), (float(np.max(detections["x"])), float(np.max(detections["y"])))
    tree = cKDTree(np.column_stack([detections["x"], detections["y"]]))
    drawn = np.column_stack([rng.uniform(STRIPES_PX, ends[0] - EDGE_PX, 20_000),
                             rng.uniform(EDGE_PX, ends[1] - EDGE_PX, 20_000)])  # fmt: skip
    free = drawn[tree.query(drawn)[0] > NOTHING_WITHIN_PX][:BLANKS]
    # Neighbours in the plane give the field's own, nearly linear, projection.
    basis = np.column_stack([np.ones(len(detections)), detections["x"], detections["y"]])
    ra, dec = (np.linalg.lstsq(basis, np.asarray(detections[name]), rcond=None)[0] for name in ("ra", "dec"))
    at = np.column_stack([np.ones(len(free)), free])
    return Table({"id": FIRST_BLANK + np.arange(len(free)), "ra": at @ ra, "dec": at @ dec,
                  "r50_pix": np.full(len(free), np.median(detections["r50_pix"]))})  # fmt: skip


def kinds(ids: NDArray[np.int64], detections: Table) -> NDArray[np.str_]:
    """Name what each target is by its measured size; empty: it could be anything."""
    size, bright = np.asarray(detections["r50_pix"]), np.asarray(detections["snr"]) > 50
    extended = np.asarray(detections["extended"]).astype(bool)
    clean = np.asarray(detections["x"]) >= STRIPES_PX
    named = np.select(
        [size > 20, ~extended & bright, extended & bright & clean & (size > 3)], ["artefact", "star", "galaxy"], ""
    )
    of_id = dict(zip(np.asarray(detections["id"]).tolist(), named.tolist(), strict=True))
    return np.array([of_id.get(int(i), "blank sky") for i in ids])


def other_surveys(data: Path) -> Iterator[tuple[str, list[NDArray[np.uint8]]]]:
    """Yield Galaxy Zoo's own example pictures by survey, and pieces of photographic plates without any galaxy."""
    folder = data / "gz_multisurvey_examples"
    table, collection = pd.read_csv(folder / "catalogue.csv"), open_collection(folder / "images.zip")
    for survey, rows in table.groupby("survey"):
        members = [collection.find("", str(image)) for image in rows["image"]]
        yield str(survey), [decode(collection.read(m), m) for m in members if m is not None]
    tiles = sorted((data / "hips_dss2red_sample" / "DSS2Red").rglob("*.jpg"))
    pixels = [np.asarray(Image.open(tile).convert("RGB")) for tile in tiles]
    yield "DSS2 plates", [tile[y : y + 128, x : x + 128] for tile in pixels for y in (64, 320) for x in (64, 320)]


if __name__ == "__main__":
    main()
