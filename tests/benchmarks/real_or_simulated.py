"""How well a small classifier tells simulated stamps from real SDSS galaxies, and by what.

Run with ``OMP_NUM_THREADS=1 python tests/benchmarks/real_or_simulated.py [SHEET.png]``.
The simulated galaxies are seen as SDSS saw the real ones: its PSF, depth, pixels, fields of
view and colours; real images are chosen to have like sizes and brightnesses.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import sklearn
from PIL import Image, ImageDraw
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gzsurvey.images.prepare import prepare_picture
from gzsurvey.recipes.preparation import Preparation, Stretch
from gzsurvey.recipes.simulation import Region
from gzsurvey.simulation.population import population
from gzsurvey.simulation.stamps import stamps

REAL = Path(__file__).parents[3] / "shared" / "data" / "gz2_sdss" / "images.zip"
SIZE = 64
SDSS = Region(
    name="sdss", ra=180, dec=30, pixel_scale_arcsec=0.396, psf_fwhm_arcsec=(1.44, 1.32, 1.26), psf_beta=3.0,
    depth_mag=(23.1, 22.7, 22.2), gain=(350, 400, 300), share=1.0,
)  # fmt: skip
LOOK = Preparation(
    image_size=SIZE,
    stretch=Stretch(
        kind="lupton", scales=(4.0, 3.0, 2.45), reference_scale_arcsec=0.396, lupton_q=6.0, lupton_range=0.85
    ),
)
WIDER = 1.1
"""Galaxy Zoo 2 took fields of 8.5 Petrosian r90, a little wider than the DECaLS rule's 17 r50."""


def simulated(count: int) -> np.ndarray:
    """Pictures of galaxies, uint8 (N, S, S, 3); the third band is SDSS's i rather than z."""
    galaxies = population(11, range(count))
    galaxies["r50"] *= WIDER  # of the frame: galaxies are drawn by `r_major`
    galaxies["r_z"] *= 0.55
    drawn = dict(stamps(galaxies, SDSS, LOOK))
    return np.stack([drawn[i] for i in range(count)])


def real() -> np.ndarray:
    """All SDSS pictures, uint8 (N, S, S, 3)."""
    with zipfile.ZipFile(REAL) as archive:
        names = [name for name in sorted(archive.namelist()) if name.endswith(".jpg")]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return np.stack([prepare_picture(picture, LOOK) for picture in pictures])


def appearance(pictures: np.ndarray) -> np.ndarray:
    """Brightness within the central third and radius of half of its light; (N, 2)."""
    grey = pictures.mean(axis=3)
    sky = np.median(grey, axis=(1, 2), keepdims=True)
    middle = np.clip(grey - sky, 0, None)[:, 16:48, 16:48]
    rows, columns = np.indices((32, 32)) - 15.5
    radius = np.hypot(rows, columns)
    order = np.argsort(radius.ravel())
    growth = np.cumsum(middle.reshape(len(middle), -1)[:, order], axis=1)
    half = radius.ravel()[order][(growth < 0.5 * growth[:, -1:]).sum(axis=1).clip(max=1023)]
    return np.stack([np.log(growth[:, -1] + 1), np.log(half + 0.5)], axis=1)


def alike(pictures: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of `wanted`, another of `pictures` with like size and brightness."""
    have, want = appearance(pictures), appearance(wanted)
    spread = have.std(axis=0)
    free = np.ones(len(have), dtype=bool)
    chosen = []
    for target in want:
        distance = (((have - target) / spread) ** 2).sum(axis=1)
        distance[~free] = np.inf
        chosen.append(int(np.argmin(distance)))
        free[chosen[-1]] = False
    return pictures[chosen]


def statistics(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """What a classifier might win on, one number per picture each."""
    flux = pictures.astype(np.float32)
    grey = flux.mean(axis=3)
    corners = np.concatenate([flux[:, :10, :10], flux[:, :10, -10:], flux[:, -10:, :10], flux[:, -10:, -10:]], axis=1)
    middle = flux[:, 28:36, 28:36].mean(axis=(1, 2))
    fine = grey[:, 1:, 1:] - grey[:, :-1, 1:] - grey[:, 1:, :-1] + grey[:, :-1, :-1]
    edge = corners - np.median(corners, axis=(1, 2), keepdims=True)
    neighbour = corners[:, 1:] - corners[:, :-1]
    red, green, blue = middle.T
    found = {
        "sky level": np.median(corners, axis=(1, 2, 3)),
        "sky colour": np.median(corners[..., 0], axis=(1, 2)) - np.median(corners[..., 2], axis=(1, 2)),
        "sky noise": np.median(np.abs(edge), axis=(1, 2, 3)),
        "noise at one pixel's distance": np.median(np.abs(neighbour), axis=(1, 2, 3)),
        "noise colour": np.abs(corners[..., 0] - corners[..., 2]).mean(axis=(1, 2)),
        "fine structure": np.abs(fine).mean(axis=(1, 2)),
        "fine structure in the middle": np.abs(fine[:, 24:40, 24:40]).mean(axis=(1, 2)),
        "colour of the middle, red - blue": red - blue,
        "colour of the middle, green - mean": green - (red + blue) / 2,
        "saturated pixels": (flux > 250).mean(axis=(1, 2, 3)),
        "black pixels": (flux == 0).mean(axis=(1, 2, 3)),
        "brightest pixel outside the middle": np.where(np.hypot(*(np.indices((SIZE, SIZE)) - 31.5)) > 18, grey, 0).max(
            axis=(1, 2)
        ),
        "central brightness": grey[:, 28:36, 28:36].mean(axis=(1, 2)),
        "concentration": grey[:, 28:36, 28:36].mean(axis=(1, 2)) / (grey[:, 16:48, 16:48].mean(axis=(1, 2)) + 1),
    }
    turned = np.abs(grey - grey[:, ::-1, ::-1])[:, 20:44, 20:44].mean(axis=(1, 2))
    found["asymmetry"] = turned / (grey[:, 20:44, 20:44].mean(axis=(1, 2)) + 1)
    return found


def sheet(pictures: np.ndarray, path: Path, titles: list[str] | None = None) -> None:
    """84 pictures in the layout of the real contact sheets."""
    cell = 88
    whole = Image.new("RGB", (14 * 90, 6 * 102))
    pen = ImageDraw.Draw(whole)
    for i, picture in enumerate(pictures[:84]):
        x, y = i % 14 * 90, i // 14 * 102
        pen.text((x + 1, y), titles[i] if titles else "", fill=(255, 255, 0))
        whole.paste(Image.fromarray(picture).resize((cell, cell), Image.Resampling.BICUBIC), (x, y + 12))
    whole.save(path, quality=88)


def report(count: int = 2000) -> None:
    made = simulated(count)
    seen = alike(real(), made)
    both = np.concatenate([made, seen])
    is_real = np.repeat([0, 1], count)
    numbers = statistics(both)
    values = np.stack(list(numbers.values()), axis=1)
    pixels = PCA(60, random_state=0).fit_transform(both.reshape(len(both), -1).astype(np.float32) / 255)
    everything = np.concatenate([pixels, values], axis=1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"NumPy {np.__version__}, scikit-learn {sklearn.__version__}")  # fmt: skip
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
    for name, data in (("60 principal components of the pixels", pixels), ("statistics", values), ("both", everything)):
        for kind, model in (("logistic regression", linear), ("random forest", forest)):
            scores = cross_val_predict(model, data, is_real, cv=5, method="predict_proba")[:, 1]
            print(f"{roc_auc_score(is_real, scores):.3f}  {kind}, {name}")
    print("one statistic alone (ROC-AUC, median simulated, median real):")
    alone = {name: roc_auc_score(is_real, column) for name, column in numbers.items()}
    for name in sorted(alone, key=lambda name: -abs(alone[name] - 0.5)):
        column = numbers[name]
        area = max(alone[name], 1 - alone[name])
        print(f"  {area:.3f}  {name}: {np.median(column[:count]):.3g}, {np.median(column[count:]):.3g}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        made = simulated(84)
        sheet(made, Path(sys.argv[1]))
    else:
        report()
