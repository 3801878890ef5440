"""The reference says what the code says, all of it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest
import yaml

from gzsurvey import recipes, resources
from gzsurvey.recipes.base import Section, load
from gzsurvey.recipes.campaign import load_campaigns

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import generate  # noqa: E402 - the pages' own generator


@pytest.mark.parametrize("name", generate.PAGES)
def test_generated_pages_are_current(name: str) -> None:
    page = ROOT / "docs" / "reference" / name
    assert page.read_text() == generate.PAGES[name](), "run: python docs/generate.py"


def test_every_recipe_model_has_its_entry() -> None:
    listed = {model for models in generate.RECIPES.values() for model in models}
    for module in pkgutil.iter_modules(recipes.__path__, "gzsurvey.recipes."):
        for _, model in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(model, Section) and model is not Section:
                assert model in listed, model


def test_every_shipped_recipe_loads_and_explains_its_numbers() -> None:
    from gzsurvey.recipes.dataset import load_dataset_recipe
    from gzsurvey.recipes.demo import DemoRecipe
    from gzsurvey.recipes.detectability import DetectabilityRecipe
    from gzsurvey.recipes.evaluation import EvaluationRecipe
    from gzsurvey.recipes.simulation import SimulationRecipe
    from gzsurvey.recipes.study import StudyRecipe
    from gzsurvey.recipes.survey import SurveyRecipe
    from gzsurvey.recipes.training import FinetuneRecipe, PretrainRecipe

    models = {
        "demo": DemoRecipe, "simulate": SimulationRecipe, "survey": SurveyRecipe, "pretrain": PretrainRecipe,
        "evaluate": EvaluationRecipe, "finetune": FinetuneRecipe,
        "real-sky-pretrain": PretrainRecipe, "real-sky-rings": FinetuneRecipe,
        "real-gz2-pretrain": PretrainRecipe, "real-direct": FinetuneRecipe,
        "study-simulated": StudyRecipe, "study-simulated-gpu": StudyRecipe, "study-real": StudyRecipe,
        "study-variants": StudyRecipe, "study-few-votes": StudyRecipe, "study-128px": StudyRecipe,
        "detectability": DetectabilityRecipe,
    }  # fmt: skip
    for name in resources.shipped_names(resources.RECIPES):
        path = resources.find(resources.RECIPES, name)
        assert "# " in path.read_text()
        if name in models:
            load(path, models[name])
        else:
            assert load_dataset_recipe(name, ("data=somewhere",)).sources
    for name in resources.shipped_names(resources.CAMPAIGNS):
        assert load_campaigns(name)


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith(("http", "mailto:")):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_glossary_and_the_status_codes_are_whole() -> None:
    from gzsurvey.status import DESCRIPTIONS

    columns = (ROOT / "docs" / "reference" / "columns.md").read_text()
    assert all(f"{int(code)} {text}" in columns for code, text in DESCRIPTIONS.items())
    glossary = (ROOT / "docs" / "reference" / "glossary.md").read_text()
    for word in (
        "campaign",
        "footprint",
        "target",
        "block",
        "tile",
        "frame",
        "cutout",
        "miss",
        "card",
        "recipe",
        "run",
        "ledger",
    ):
        assert f"| {word}" in glossary


def test_yaml_of_the_catalogs_is_safe_yaml() -> None:
    for path in (resources.ROOT / "catalogs").rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
