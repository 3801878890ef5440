"""Write the reference pages that follow from the code: ``python docs/generate.py``."""

from __future__ import annotations

import ast
import inspect
import textwrap
import typing
from pathlib import Path

import click
from pydantic import BaseModel

from gzsurvey.cli import cli
from gzsurvey.outputs.reference import columns_page
from gzsurvey.recipes import (
    authors,
    campaign,
    cluster,
    columns,
    dataset,
    demo,
    detectability,
    evaluation,
    imaging,
    preparation,
    remote,
    simulation,
    study,
    survey,
    training,
)
from gzsurvey.recipes.base import Section

REFERENCE = Path(__file__).parent / "reference"
RECIPES: dict[str, tuple[type[BaseModel], ...]] = {
    "simulate": (simulation.SimulationRecipe, simulation.Region),
    "dataset build": (dataset.DatasetRecipe, dataset.SourceRecipe, dataset.Splits, dataset.HoldOut, dataset.Join),
    "column maps of votes tables": (columns.ColumnMap,),
    "preparation, in stores and cards": (preparation.Preparation, preparation.Stretch, preparation.ScaleRule),
    "pretrain": (
        training.PretrainRecipe, training.EncoderRecipe, training.OptimiserRecipe, training.ByolRecipe,
        training.HybridRecipe, training.AugmentationRecipe, training.GuardRecipe,
    ),
    "finetune": (training.FinetuneRecipe, training.FinetuneTask),
    "evaluate": (evaluation.EvaluationRecipe,),
    "study": (
        study.StudyRecipe, study.VariantRecipe, study.DatasetOfStudy, study.TaskRecipe, study.LabelsRecipe, study.Cut,
    ),
    "detectability": (detectability.DetectabilityRecipe,),
    "classify and plan": (survey.SurveyRecipe, remote.Politeness),
    "surveys as sources of pixels": (imaging.SurveyImages, imaging.LayerImages),
    "cluster profiles": (cluster.ClusterProfile, cluster.SlurmJob, cluster.RetrievalPool),
    "demo": (demo.DemoRecipe, demo.DemoSky, demo.DemoChecks),
    "AUTHORS of a release": (authors.Authors, authors.Author),
    "campaigns": (campaign.Campaign, campaign.QuestionSpec, campaign.CampaignUnion),
}  # fmt: skip
"""Every model of a YAML file, by the command that reads it."""


def commands(group: click.Group = cli, before: str = "gzsurvey ") -> dict[str, click.Command]:
    """All commands by their full name, in alphabetic order."""
    found: dict[str, click.Command] = {}
    for name in sorted(group.commands):
        command = group.commands[name]
        found |= commands(command, f"{before}{name} ") if isinstance(command, click.Group) else {before + name: command}
    return found


def cli_page() -> str:
    """Every command with its help."""
    lines = [
        "# Commands",
        "",
        "Written by `python docs/generate.py`. `python -m gzsurvey` is the same program.",
        "",
        "Exit codes: 0 done; 1 an error, one line on standard error that says what to change; 2 usage; 3 a run ended "
        "with unfinished blocks (repeat to retry); 130 interrupted. Repeating a command on its own OUT or RUN goes on "
        "where it stopped.",
    ]
    for name, command in commands().items():
        context = click.Context(command, info_name=name, max_content_width=110, terminal_width=110)
        lines += ["", f"## {name}", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def recipes_page() -> str:
    """Every key of every recipe."""
    lines = [
        "# Recipes",
        "",
        "Written by `python docs/generate.py`. Shipped recipes lie in `pipelines/`, campaigns in "
        "`catalogs/campaigns/`; each number there has a comment that says why. `--set section.key=value` replaces one "
        "value. A key that is not listed is refused.",
    ]
    for command, models in RECIPES.items():
        lines += ["", f"## {command}"]
        for model in models:
            summary = " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
            lines += ["", f"### {model.__name__}", "", summary, "", "| key | default | meaning |", "|---|---|---|"]
            meanings = attribute_docs(model)
            lines += [f"| `{key}` | {default(model, key)} | {meanings.get(key, '')} |" for key in model.model_fields]
    return "\n".join(lines) + "\n"


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The text below each attribute of a class and of those it inherits from."""
    docs = {} if model.__base__ in (None, BaseModel, Section) else attribute_docs(model.__base__)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    for attribute, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(attribute, ast.AnnAssign) and isinstance(after, ast.Expr):
            docs[ast.unparse(attribute.target)] = " ".join(ast.literal_eval(after.value).split()).replace("|", "\\|")
    return docs


def default(model: type[BaseModel], key: str) -> str:
    """What holds where the key is left out."""
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    if isinstance(field.default, BaseModel):
        return f"see {type(field.default).__name__}"
    kind = typing.get_origin(field.annotation)
    return (
        f"`{field.get_default(call_default_factory=True)!r}`" if kind is not None or field.default is not None else ""
    )


PAGES = {"cli.md": cli_page, "recipes.md": recipes_page, "columns.md": columns_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
