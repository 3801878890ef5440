"""Dataset recipes: paths resolve, mistakes are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gzsurvey.errors import RecipeError
from gzsurvey.recipes.dataset import DatasetRecipe, load_dataset_recipe
from gzsurvey.resources import RECIPES

MINIMAL = {"name": "small", "image_size": 32, "sources": [{"name": "a", "images": "a.zip"}]}
SHIPPED = [p.stem for p in sorted(RECIPES.glob("*.yaml")) if "sources:" in p.read_text()]


def write(folder: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return path


def test_paths_start_from_the_file(tmp_path: Path) -> None:
    recipe = load_dataset_recipe(str(write(tmp_path, hold_out=["held.csv"])))
    assert recipe.sources[0].images == str(tmp_path / "a.zip")
    assert recipe.hold_out[0].file == str(tmp_path / "held.csv")
    assert recipe.preparation.image_size == 32


def test_paths_start_from_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, data="inner")
    assert load_dataset_recipe(str(path)).sources[0].images == str(tmp_path / "inner" / "a.zip")
    monkeypatch.chdir(tmp_path.parent)
    overridden = load_dataset_recipe(str(path), ["data=elsewhere"])
    assert overridden.sources[0].images == str(tmp_path.parent / "elsewhere" / "a.zip")


def test_a_mosaic_keeps_its_kind_and_ready_images_lose_theirs(tmp_path: Path) -> None:
    sources = [
        {"name": "a", "images": "mosaic:m/{band}.fits", "catalogue": "t.csv"},
        {"name": "b", "images": "images:b.tar"},
    ]
    recipe = load_dataset_recipe(str(write(tmp_path, sources=sources)))
    assert recipe.sources[0].images == f"mosaic:{tmp_path}/m/{{band}}.fits"
    assert recipe.sources[0].is_cutouts
    assert recipe.sources[1].images == str(tmp_path / "b.tar")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": [{"name": "a", "imagse": "a.zip"}]}, "did you mean 'images'"),
        ({"splitz": "published"}, "did you mean 'splits'"),
        ({"splits": {"train": 0.9}}, "must add up to 1"),
        ({"sources": [{"name": "a", "images": "a.zip"}] * 2}, "two sources are named 'a'"),
        ({"sources": [{"name": "a", "images": "mosaic:x"}]}, "needs a 'catalogue'"),
        ({"sources": [{"name": "a", "images": "x", "not_in": ["b"]}]}, "no earlier source"),
        ({"sources": [{"name": "a", "images": "x", "split": "dev"}]}, "train, validation or test"),
        ({"hold_out": [{"id_column": "x"}]}, "give 'file' or 'ids'"),
        ({"preparation": {"image_size": 64}}, "give 'image_size' once"),
        ({"sources": []}, "sources"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(changes: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        load_dataset_recipe(str(write(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


def test_published_splits_are_a_word() -> None:
    assert DatasetRecipe.model_validate(MINIMAL | {"splits": "published"}).splits.published


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_load_and_ask_for_the_data(name: str) -> None:
    assert load_dataset_recipe(name, ["data=/somewhere"]).sources[0].images.startswith("/somewhere/")
    for source in load_dataset_recipe(name, ["data=/somewhere"]).sources:
        assert source.column_map.campaign in (None, source.campaign)
        assert source.citation != "unknown"
    with pytest.raises(RecipeError, match="--set data=FOLDER"):
        load_dataset_recipe(name)
