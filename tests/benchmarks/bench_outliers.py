"""How well `ood_distance` tells stars, artefacts and blank sky from galaxies, on a simulated survey.

::

    python tests/benchmarks/bench_outliers.py PRETRAINED

draws a survey of which a third are stars and artefacts, adds positions with nothing at them, classifies all with
the checkpoint, and prints the ROC-AUC of each kind against galaxies, with a 95 % bootstrap interval. None of them
trained the model. ``--keep FOLDER`` keeps survey and run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table, vstack
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from gzsurvey import read_catalogue
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.export import export
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.recipes.survey import load_survey_recipe
from gzsurvey.simulation import simulate
from gzsurvey.survey import classify
from gzsurvey.survey.job import Job

FIRST_BLANK = 900_000_000
"""Ids of positions without a target."""
NOTHING_WITHIN_ARCSEC = 30.0


def main() -> None:
    """Draw, classify, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--targets", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=77, help="of the sky; not that of the training")
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.checkpoint, options.targets, options.seed, options.keep or Path(folder))


def measure(checkpoint: str, targets: int, seed: int, folder: Path) -> None:
    """Print the table."""
    sky = folder / "sky"
    changes = [f"targets={targets}", f"seed={seed}", "odd_fraction=0.35", "training=10"]
    simulate(load_simulation_recipe("simulate", changes), sky)
    everything = folder / "targets.fits"
    known = Table.read(sky / "targets.fits")
    vstack([known, blank_positions(known, targets // 5, seed)]).write(everything, overwrite=True)
    export([checkpoint], folder / "model.onnx")
    job = Job(
        model=folder / "model.onnx",
        targets=str(everything),
        sources=(SourceSpec.parse(f"mosaic:{sky / 'mosaic'}"),),
        recipe=load_survey_recipe("survey"),
    )
    classify(job, folder / "run", load_cluster("none"))
    catalogue = read_catalogue(folder / "run")
    distance = np.asarray(catalogue["ood_distance"], dtype=float)
    kind = kinds(np.asarray(catalogue["id"]), Table.read(sky / "truth.fits"))
    predicted = np.isfinite(distance)
    galaxies = distance[predicted & (kind == "galaxy")]
    print(f"{len(galaxies)} galaxies, {int((~predicted).sum())} of {len(kind)} targets without a prediction\n")
    print("| against galaxies | number | ROC-AUC [95 %] | further than 99 % of held-out training galaxies |")
    print("|---|---|---|---|")
    score = np.asarray(catalogue["ood_score"], dtype=float)
    for name in ("star", "artifact", "blank"):
        own = distance[predicted & (kind == name)]
        far = float((score[predicted & (kind == name)] > 0.99).mean())
        print(f"| {name} | {len(own)} | {auc_with_interval(own, galaxies)} | {far:.0%} |")
    print(f"| galaxy | {len(galaxies)} | | {float((score[predicted & (kind == 'galaxy')] > 0.99).mean()):.1%} |")


def blank_positions(targets: Table, number: int, seed: int) -> Table:
    """Draw positions between targets, with the size of a typical one."""
    rng = np.random.default_rng(seed)
    centres = rng.choice(len(targets), 20 * number)
    angle, distance = rng.uniform(0, 2 * np.pi, 20 * number), rng.uniform(25, 60, 20 * number) / 3600
    dec = np.asarray(targets["dec"])[centres] + distance * np.sin(angle)
    ra = np.asarray(targets["ra"])[centres] + distance * np.cos(angle) / np.cos(np.radians(dec))
    nearest = SkyCoord(ra, dec, unit="deg").match_to_catalog_sky(SkyCoord(targets["ra"], targets["dec"], unit="deg"))[1]
    free = np.flatnonzero(nearest.arcsec > NOTHING_WITHIN_ARCSEC)[:number]
    made = Table(targets[:1])[np.zeros(len(free), dtype=int)]
    made["id"], made["ra"], made["dec"] = FIRST_BLANK + np.arange(len(free)), ra[free], dec[free]
    made["r50"] = np.median(targets["r50"])
    return made


def kinds(ids: NDArray[np.int64], truth: Table) -> NDArray[np.str_]:
    """Name what each target is: galaxy, star, artifact or blank."""
    drawn = dict(zip(np.asarray(truth["id"]), np.asarray(truth["kind"]).astype(str), strict=True))
    named = [drawn.get(int(i), "blank").strip() for i in ids]
    return np.array([name if name in ("star", "artifact", "blank") else "galaxy" for name in named])


def auc_with_interval(odd: NDArray[np.float64], galaxies: NDArray[np.float64]) -> str:
    """ROC-AUC of distances, and the central 95 % of 1,000 bootstrap resamples of both sets."""
    rng = np.random.default_rng(0)
    truth = np.repeat([1, 0], [len(odd), len(galaxies)])
    found = [
        roc_auc_score(truth, np.concatenate([rng.choice(odd, len(odd)), rng.choice(galaxies, len(galaxies))]))
        for _ in range(1000)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return f"{roc_auc_score(truth, np.concatenate([odd, galaxies])):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
