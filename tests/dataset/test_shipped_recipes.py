"""The shipped recipes on ten rows a file, under the published files' own column names."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from collections_of_pictures import png

from gzsurvey import dataset
from gzsurvey.progress import Progress
from gzsurvey.recipes.columns import load_column_map
from gzsurvey.recipes.dataset import load_dataset_recipe
from gzsurvey.votes.tree import DecisionTree

N = 10
WILLETT = ("count", "weight", "fraction", "weighted_fraction", "debiased", "flag")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "quiet", True)


def votes(tree: DecisionTree, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, (N, tree.n_answers))


def positions(region: int) -> dict[str, np.ndarray]:
    return {"ra": 15.0 * region + np.arange(N) / 10, "dec": np.linspace(-3, 3, N)}


def pictures(folder: Path, names: list[str], first_seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / f"{name}.png").write_bytes(png(first_seed + i))


def hugging_face(path: Path, first: int) -> np.ndarray:
    """A shard with ``id_str, dataset_name, ra, dec``, counts, fractions, totals, and image structs."""
    tree = DecisionTree.load("gz_evo_v1_public")
    counts = np.zeros((N, tree.n_answers), dtype=np.int32)
    frame: dict[str, object] = {}
    for row in range(N):
        for question in tree.of_campaign(tree.campaigns[row % 6]):
            rng = np.random.default_rng(first + row)
            counts[row, question.columns] = rng.integers(0, 20, len(question.answers))
    for question in tree.questions:
        part = counts[:, question.columns]
        with np.errstate(invalid="ignore"):
            fractions = (part / part.sum(axis=1, keepdims=True)).astype(np.float32)
        for i, column in enumerate(question.vote_columns):
            frame |= {column: part[:, i], f"{column}_fraction": fractions[:, i]}
        frame[f"{question.name}_total-votes"] = part.sum(axis=1, dtype=np.int32)
    cells = [{"bytes": png(first + i), "path": f"{first + i}.jpg"} for i in range(N)]
    head = {"image": cells, "id_str": [f"id{first + i}" for i in range(N)], "dataset_name": ["gz_desi"] * N}
    pq.write_table(pa.table(head | positions(first) | frame), path, row_group_size=4)
    return counts


def test_gz_evo_as_on_hugging_face(tmp_path: Path) -> None:
    train = hugging_face(tmp_path / "train-00000-of-00030.parquet", 0)
    more = hugging_face(tmp_path / "train-00001-of-00030.parquet", 10)
    test = hugging_face(tmp_path / "test-00000-of-00007.parquet", 20)
    recipe = load_dataset_recipe("gz-evo-hf", [f"data={tmp_path}", "preparation.image_size=32"])
    store = dataset.build(recipe, tmp_path / "store")
    assert len(store) == 30
    names = list(DecisionTree.load("gz_evo_v1_public").vote_columns)
    found = pd.DataFrame(store.vote_counts(np.arange(30)), columns=list(store.tree.vote_columns))
    np.testing.assert_array_equal(found[names], np.vstack([train, more, test]))
    assert found.drop(columns=names).to_numpy().sum() == 0
    assert store.galaxies["campaign"].nunique() == 6
    assert set(store.galaxies["split"].iloc[20:]) == {"test"}
    assert set(store.galaxies["split"].iloc[:20]) <= {"train", "validation"}
    assert store.galaxies["ra"].notna().all()


def gz2(folder: Path) -> np.ndarray:
    """``gz2_hart16.csv``, its file of names, and the zip of pictures by asset number."""
    folder.mkdir()
    tree, columns = DecisionTree.load("gz2"), load_column_map("willett2013")
    counts = votes(tree, 1)
    ids = [587732591714893851 + i for i in range(N)]
    table: dict[str, object] = {"dr7objid": ids} | positions(1) | {"gz2class": "Sc", "total_votes": 200}
    for question in tree.questions:
        for i, answer in enumerate(question.answers):
            stem = columns.answers[question.label][answer].removesuffix("_count")
            table |= {f"{stem}_{kind}": counts[:, question.start + i] if kind == "count" else 0.123 for kind in WILLETT}
    pd.DataFrame(table).to_csv(folder / "gz2_hart16.csv", index=False)
    mapping = pd.DataFrame({"objid": ids[::-1], "sample": "original", "asset_id": range(100, 100 + N)})
    mapping.to_csv(folder / "gz2_filename_mapping.csv", index=False)
    with zipfile.ZipFile(folder / "images_gz2.zip", "w") as archive:
        for i in range(N):
            archive.writestr(f"images/{109 - i}.jpg", png(1000 + i))
    return counts


def hst(folder: Path, name: str, file: str, head: dict[str, object], ids: list[str]) -> np.ndarray:
    """Fractions and totals of one of the two HST campaigns."""
    columns = load_column_map(name)
    assert columns.campaign is not None
    tree = DecisionTree.load(columns.campaign)
    counts = votes(tree, len(name))
    table = dict(head)
    for question in tree.questions:
        part = counts[:, question.columns]
        for i, answer in enumerate(question.answers):
            total = np.maximum(part.sum(axis=1), 1)
            table[columns.answers[question.label][answer]] = np.round(part[:, i] / total, 6)
        table[columns.totals[question.label]] = part.sum(axis=1)
    pictures(folder / "images", ids, 2000 + len(name))
    Table.from_pandas(pd.DataFrame(table)).write(folder / file)
    return counts


def decals(path: Path, campaign: str, table: dict[str, object], seed: int) -> np.ndarray:
    """Counts, totals, fractions and debiased fractions, without suffix."""
    tree = DecisionTree.load(campaign)
    counts = votes(tree, seed)
    for question in tree.questions:
        part = counts[:, question.columns]
        table[f"{question.label}_total-votes"] = part.sum(axis=1)
        for i, answer in enumerate(question.answers):
            table[f"{question.label}_{answer}"] = part[:, i]
            table[f"{question.label}_{answer}_fraction"] = part[:, i] / np.maximum(part.sum(axis=1), 1)
            table[f"{question.label}_{answer}_debiased"] = 0.5
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(table).to_parquet(path)
    return counts


def nsa(names: list[str], region: int) -> dict[str, object]:
    redshift = np.where(np.arange(N) < 7, 0.05, 0.2)
    return {"iauname": names, "redshift": redshift, "petro_th50": 3.0, "petro_th90": 7.0, "mag_r": 16.5,
            "wrong_size_warning": False} | positions(region)  # fmt: skip


def test_gz_evo_v0_1_from_the_published_catalogues(tmp_path: Path) -> None:
    counts = {"gz2": gz2(tmp_path / "gz2")}
    hubble, candels = [f"AHZ{i:07d}" for i in range(N)], [f"COS_{i}" for i in range(N)]
    sky = positions(2)
    counts["gz_hubble"] = hst(tmp_path / "gz_hubble", "hubble_willett2017", "gz_hubble_main.csv",
                              {"zooniverse_id": hubble, "survey_id": range(N), "Table": "hubble", "RA": sky["ra"],
                               "DEC": sky["dec"], "Z_BEST": 999.0, "imaging": "GEMS"}, hubble)  # fmt: skip
    sky = positions(3)
    counts["gz_candels"] = hst(tmp_path / "gz_candels", "candels_simmons2017", "gz_candels_table_2_main_release.fits",
                               {"ID": candels, "RA": sky["ra"], "Dec": sky["dec"], "num_classifications": 40},
                               candels)  # fmt: skip
    one, five = [f"J0{i}1234.56-001122.3" for i in range(N)], [f"J1{i}1234.56+001122.3" for i in range(N)]
    eight, pool = [f"3300{i}_44" for i in range(N)], [f"5500{i}_66" for i in range(N)]
    table = tmp_path / "gz_decals" / "gz_decals_volunteers_1_and_2.parquet"
    counts["gz_decals_dr12"] = decals(table, "gz_decals_dr12", nsa(one, 4), 4)
    counts["gz_decals_dr5"] = decals(
        table.with_name("gz_decals_volunteers_5.parquet"), "gz_decals_dr5", nsa(five, 5), 5
    )
    core = tmp_path / "gz_desi" / "gz_desi_gzd8_volunteer_core_catalog.parquet"
    counts["gz_decals_dr8"] = decals(core, "gz_decals_dr8", {"dr8_id": eight} | positions(6), 6)
    both = {axis: np.concatenate([positions(6)[axis], positions(7)[axis]]) for axis in ("ra", "dec")}
    friendly = {"dr8_id": [*eight, *pool], "smooth-or-featured_smooth_fraction": 0.5} | both
    pd.DataFrame(friendly).to_parquet(core.with_name("gz_desi_deep_learning_catalog_friendly.parquet"))
    external = {"dr8_id": [*pool, *eight], "redshift": [0.05] * 8 + [0.3] * 2 + [0.08] * N, "est_petro_th50": 2.0,
                "mag_r_desi": 18.0, "photo_z": 0.1, "spec_z": np.nan}  # fmt: skip
    pd.DataFrame(external).to_parquet(core.with_name("external_catalog.parquet"))
    pictures(tmp_path / "gz_desi" / "images", [*one, *five, *eight, *pool], 4000)

    recipe = load_dataset_recipe("gz-evo-v0.1", [f"data={tmp_path}", "preparation.image_size=32"])
    store = dataset.build(recipe, tmp_path / "store")
    expected = {"gz2": 10, "gz_hubble": 10, "gz_candels": 10, "gzd_1_and_2": 7, "gzd_5": 7, "gzd_8": 10,
                "desi_unlabelled": 8}  # fmt: skip
    assert store.galaxies["source"].value_counts().to_dict() == expected
    assert store.info.rejected == 0
    votes_found = store.vote_counts(np.arange(len(store)))
    for source in recipe.sources[:-1]:
        campaign = str(source.campaign)
        rows = (store.galaxies["source"] == source.name).to_numpy()
        columns = [store.tree.vote_columns.index(name) for name in DecisionTree.load(campaign).vote_columns]
        np.testing.assert_array_equal(votes_found[np.ix_(rows, columns)], counts[campaign][: rows.sum()])
        assert votes_found[rows].sum() == counts[campaign][: rows.sum()].sum()
    assert votes_found[(store.galaxies["source"] == "desi_unlabelled").to_numpy()].sum() == 0
    sized = store.galaxies.set_index("source")["r50"]
    assert sized["gzd_5"].iloc[0] == 3.0
    assert sized["gzd_8"].iloc[0] == 2.0


@pytest.mark.slow
def test_every_labelled_set_of_the_real_sky(shared_data: Path, tmp_path: Path) -> None:
    held = pd.read_csv(shared_data / "gz_decals_rings" / "catalogue.csv").head(20)
    held[["iauname", "ra", "dec"]].to_csv(tmp_path / "held.csv", index=False)
    overrides = [f"data={shared_data}", f"hold_out=[{tmp_path / 'held.csv'}]"]
    store = dataset.build(load_dataset_recipe("real-sky", overrides), tmp_path / "store")
    sizes = {"gz2_sdss": 3475, "gz_decals_rings": 313, "gz1_sdss_classes": 778, "galaxy10_decals": 76,
             "gz_multisurvey": 448}  # fmt: skip
    assert store.galaxies["source"].value_counts().to_dict() == sizes
    assert store.info.held_out == {"gz_decals_rings": 20}
    assert store.info.rejected == 0
    assert store.galaxies["assumed_votes"].sum() == 3475
    assert set(store.galaxies.loc[store.galaxies["campaign"] != "", "source"]) == {"gz2_sdss"}
    first = store.tree.of_campaign("gz2")[0]
    assert (store.vote_counts(np.arange(3475))[:, first.columns].sum(axis=1) == 44).all()
    assert "gz2" in dataset.info(store)
