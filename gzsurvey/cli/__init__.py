"""The command line: each command parses, makes one call, and prints what it returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gzsurvey import __version__
from gzsurvey.cli import catalogue
from gzsurvey.cli.command import Directory, ExistingFile, File, Group, device, names, overrides
from gzsurvey.cutouts.remote.token import use_token_file
from gzsurvey.progress import is_first_process

if TYPE_CHECKING:
    from gzsurvey.survey.job import Job


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="gzsurvey")
def cli() -> None:
    """Galaxy Zoo votes to a galaxy model, and that model to a catalogue of a whole survey."""


@cli.command()
@click.argument("out", type=Directory)
@click.option("--seed", type=int, default=None, help="Another sky, other weights. [default: the recipe's]")
@click.option("--recipe", default="demo", help="Shipped name or YAML file.")
def demo(out: Path, seed: int | None, recipe: str) -> None:
    """Run the whole chain on a simulated sky, without network or GPU.

    Example: gzsurvey demo demo-out
    """
    from gzsurvey.demo import demo as run_demo

    click.echo(run_demo(out, seed, recipe))


@cli.command()
@click.argument("out", type=Directory)
@click.option("--recipe", default="simulate", help="Shipped name or YAML file.")
@click.option("--targets", type=click.IntRange(min=1), default=None, help="Galaxies in the mosaics.")
@click.option("--seed", type=int, default=None, help="Another sky.")
@overrides
def simulate(out: Path, recipe: str, targets: int | None, seed: int | None, overrides: tuple[str, ...]) -> None:
    """Draw a survey: mosaics, targets, truth, volunteers' votes, training stamps.

    Example: gzsurvey simulate sky --targets 2000
    """
    from gzsurvey.recipes.simulation import load_simulation_recipe
    from gzsurvey.simulation import simulate as draw

    given = {"targets": targets, "seed": seed}
    more = tuple(f"{key}={value}" for key, value in given.items() if value is not None)
    click.echo(draw(load_simulation_recipe(recipe, (*overrides, *more)), out))


@cli.group(cls=Group)
def dataset() -> None:
    """Training stores: build one, look at one."""


@dataset.command()
@click.argument("recipe")
@click.argument("out", type=Directory)
@overrides
def build(recipe: str, out: Path, overrides: tuple[str, ...]) -> None:
    """Make one training store out of many catalogues and image collections.

    Example: gzsurvey dataset build sky/dataset.yaml store
    """
    from gzsurvey import dataset as stores
    from gzsurvey.recipes.dataset import load_dataset_recipe

    store = stores.build(load_dataset_recipe(recipe, overrides), out)
    click.echo(stores.info(store))


@dataset.command()
@click.argument("store", type=Directory)
@click.option("--sheet", type=File, default=None, help="Also draw a contact sheet to this PNG.")
def info(store: Path, sheet: Path | None) -> None:
    """Show what a store holds: galaxies, votes, answers known, splits.

    Example: gzsurvey dataset info store --sheet store.png
    """
    from gzsurvey import dataset as stores

    opened = stores.Store(store)
    click.echo(stores.info(opened))
    if sheet:
        stores.contact_sheet(opened, sheet)
        click.echo(f"contact sheet: {sheet}")


@cli.command()
@click.argument("recipe")
@click.argument("out", type=Directory)
@click.option("--dataset", "store", type=Directory, required=True, help="The training store.")
@click.option("--approach", type=click.Choice(["hybrid", "supervised", "contrastive"]), default=None)
@click.option("--monitor", type=ExistingFile, default=None, metavar="LABELS",
              help="Table with id and label: logs how well nearest neighbours tell the classes apart.")  # fmt: skip
@device
@overrides
def pretrain(
    recipe: str,
    out: Path,
    store: Path,
    approach: str | None,
    monitor: Path | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Pretrain a galaxy model on images and votes.

    Example: gzsurvey pretrain pretrain pretrained --dataset store

    Several processes, one per GPU: torchrun --nproc-per-node 4 -m gzsurvey pretrain ...
    """
    from gzsurvey import training
    from gzsurvey.recipes.training import load_pretrain_recipe

    more = (f"approach={approach}",) if approach else ()
    made = training.pretrain(load_pretrain_recipe(recipe, (*overrides, *more)), store, out, device, monitor)
    if is_first_process():
        click.echo(made)


@cli.command()
@click.argument("recipe")
@click.argument("checkpoint")
@click.argument("out", type=Directory)
@click.option("--labels", type=ExistingFile, default=None, help="Table with id (or ra, dec) and labels.")
@click.option("--images", default=None, metavar="PATH|SOURCE",
              help="A store, directory, zip, tar or parquet of images, or a SOURCE of cutouts.")  # fmt: skip
@device
@overrides
def finetune(
    recipe: str,
    checkpoint: str,
    out: Path,
    labels: Path | None,
    images: str | None,
    device: str,
    overrides: tuple[str, ...],
) -> None:
    """Teach a pretrained model new tasks; CHECKPOINT 'none' trains from nothing.

    Example: gzsurvey finetune finetune pretrained rings --labels rings.csv --images stamps.zip
    """
    from gzsurvey import training
    from gzsurvey.recipes.training import load_finetune_recipe

    loaded = load_finetune_recipe(recipe, overrides)
    click.echo(training.finetune(loaded, checkpoint, out, labels, images, device))


@cli.command()
@click.argument("checkpoint")
@click.argument("out", type=Directory)
@click.option("--dataset", type=Directory, default=None, help="A store, whose votes are the truth.")
@click.option("--split", type=click.Choice(["test", "validation", "train", "folds"]), default="test",
              help="Of the store; folds: all labels, each by the network that did not learn from it.")  # fmt: skip
@click.option("--labels", type=ExistingFile, default=None,
              help="Table of a finetuned task's labels, or of counts of votes: instead of the store's.")  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path, exists=True), default=None,
              help="Of the labels: a store, directory, zip, tar or parquet. [default: --dataset]")  # fmt: skip
@click.option("--truth", type=click.Path(path_type=Path, exists=True), default=None, metavar="TABLE|FOLDER",
              help="A simulation's true fractions: id and {vote column}_fraction, or {campaign}.parquet.")  # fmt: skip
@click.option("--by", default=None, metavar="A,B,C",
              help="Show errors along these columns of the labels. [default, of a store: r50,mag]")  # fmt: skip
@click.option("--catalogue", type=ExistingFile, default=None, help="For a store: table of id and the columns of --by.")
@click.option("--member", "members", multiple=True, metavar="CHECKPOINT", help="Mixed with CHECKPOINT; repeatable.")
@click.option("--passes", type=click.IntRange(1, 100), default=1, help="Members made of each checkpoint.")
@click.option("--vary", type=click.Choice(["dropout", "views"]), default="dropout", help="What differs between passes.")
@click.option("--recipe", default="evaluate", help="Shipped name or YAML file.")
@device
@overrides
def evaluate(checkpoint: str, out: Path, recipe: str, device: str, overrides: tuple[str, ...], **given: Any) -> None:
    """Say how good a checkpoint is: errors, calibration, purity, figures, galaxies it gets wrong.

    Example: gzsurvey evaluate pretrained evaluated --dataset store
    """
    from gzsurvey import evaluation
    from gzsurvey.recipes.evaluation import load_evaluation_recipe

    mixture = evaluation.Mixture((checkpoint, *given.pop("members")), given.pop("passes"), given.pop("vary"))
    galaxies = evaluation.Given(**given | {"by": names(given["by"])})
    click.echo(evaluation.evaluate(load_evaluation_recipe(recipe, overrides), mixture, out, galaxies, device))


@cli.command()
@click.argument("recipe")
@click.argument("out", type=Directory)
@click.option(
    "--workers", type=click.IntRange(min=1), default=None, help="Processes. [default: every core; on a GPU 1]"
)
@device
@overrides
def study(recipe: str, out: Path, workers: int | None, device: str, overrides: tuple[str, ...]) -> None:
    """Compare direct, contrastive, supervised and hybrid training over numbers of labels.

    Example: gzsurvey study study-simulated study
    """
    from gzsurvey.recipes.study import load_study_recipe
    from gzsurvey.study import study as compare

    click.echo(compare(load_study_recipe(recipe, overrides), out, device, workers))


@cli.command()
@click.argument("checkpoint")
@click.argument("out", type=Directory)
@click.option("--recipe", default="detectability", help="Shipped name or YAML file.")
@click.option("--targets", type=ExistingFile, default=None, help="Real galaxies: table with id, ra, dec, r50.")
@click.option("--cutouts", default=None, metavar="SOURCE", help="Of their flux: mosaic:...")
@device
@overrides
def detectability(
    checkpoint: str, out: Path, recipe: str, device: str, overrides: tuple[str, ...], **real: Any
) -> None:
    """Follow vote fractions as galaxies become fainter, smaller, blurred and noisier.

    Example: gzsurvey detectability pretrained detectability
    """
    from gzsurvey.evaluation.detectability import detectability as follow
    from gzsurvey.recipes.detectability import load_detectability_recipe

    click.echo(follow(load_detectability_recipe(recipe, overrides), checkpoint, out, device, **real))


@cli.command()
@click.argument("checkpoints", nargs=-1, required=True)
@click.argument("model", type=File)
@click.option("--campaign", default=None, help="Whose volunteers a catalogue imitates. [default: most training votes]")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", help="Of encoders.")
@click.option("--dataset", type=Directory, default=None, metavar="STORE", help="To quantise, compare, calibrate on.")
def export(checkpoints: tuple[str, ...], model: Path, **options: Any) -> None:
    """Write one self-contained ONNX file, compared with torch before it is kept.

    Example: gzsurvey export rings model.onnx
    """
    from gzsurvey.export import export as write

    click.echo(write(checkpoints, model, **options))


def survey_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `classify` and `plan` share."""
    options = (
        click.option("--model", type=ExistingFile, required=True, help="An ONNX file with its card."),
        click.option("--targets", required=True, help="Table of positions, or a quoted glob of tables."),
        click.option("--cutouts", multiple=True, required=True, metavar="SOURCE", help="mosaic:..., a survey, ..."),
        click.option("--out", "run_dir", type=Directory, required=True, metavar="RUN", help="Where the run lives."),
        click.option("--recipe", default="survey", help="Shipped name or YAML file."),
        click.option("--footprint", default=None, help="A MOC file, circle(RA,DEC,RADIUS), box(...), polygon(...)."),
        click.option("--exclude", default=None, help="A footprint, or a RUN whose targets are left out."),
        click.option("--select", default=None, metavar="EXPR", help="Which rows, e.g. 'mag_r < 19 and r50 > 2'."),
        click.option("--keep", default=None, metavar="A,B,C", help="Columns carried into every product."),
        click.option("--campaign", default=None, help="Whose volunteers are imitated. [default: the card's]"),
        click.option("--bands", default=None, metavar="B1,B2,B3", help="The source's names for the model's bands."),
        click.option("--zeropoints", default=None, metavar="Z1,Z2,Z3", help="AB magnitude of one count, or keywords."),
        click.option("--cluster", default="laptop", help="none, laptop, a profile, or tcp://HOST:PORT."),
        click.option("--token-file", type=ExistingFile, callback=use_token_file, expose_value=False),
        click.option("--batch-size", type=click.IntRange(1, 4096), default=None, help="Instead of the recipe's."),
        click.option("--limit", type=click.IntRange(min=1), default=None, help="Only the first N targets."),
        click.option("--id-column", default=None, help="One name, or several to be joined: release,brickid,objid."),
        click.option("--ra-column", default=None),
        click.option("--dec-column", default=None),
        click.option("--size-column", default=None, help="Half-light radius."),
        click.option("--size-unit", default=None, help="arcsec, pix, ... [default: the column's own]"),
        click.option("--image-column", default=None, help="File names, for images: sources."),
        click.option("--duplicates", type=click.Choice(["refuse", "first"]), default="refuse"),
        overrides,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _job(given: dict[str, Any]) -> Job:
    from gzsurvey.cutouts.spec import SourceSpec
    from gzsurvey.recipes.survey import load_survey_recipe
    from gzsurvey.sky.columns import ColumnChoices
    from gzsurvey.survey.job import Job

    columns = ("id", "ra", "dec", "size", "image")
    return Job(
        model=given["model"],
        targets=given["targets"],
        sources=tuple(SourceSpec.parse(text, given["bands"], given["zeropoints"]) for text in given["cutouts"]),
        recipe=load_survey_recipe(given["recipe"], given["overrides"]),
        footprint=given["footprint"],
        exclude=given["exclude"],
        select=given["select"],
        keep=names(given["keep"]),
        campaigns=names(given["campaign"]),
        columns=ColumnChoices(size_unit=given["size_unit"], **{name: given[f"{name}_column"] for name in columns}),
        duplicates=given["duplicates"],
        limit=given["limit"],
        batch_size=given["batch_size"],
    )


mixed = click.option("--mixed", is_flag=True, help="Workers may have another provider or ONNX Runtime than planned.")


@cli.command()
@survey_options
@mixed
def classify(run_dir: Path, cluster: str, mixed: bool, **given: Any) -> None:
    """Classify every target: plan, run and publish in one. Safe to repeat.

    Example: gzsurvey classify --model model.onnx --targets targets.fits --cutouts mosaic:tiles --out run
    """
    from gzsurvey import survey
    from gzsurvey.recipes.cluster import load_cluster

    click.echo(survey.classify(_job(given), run_dir, load_cluster(cluster), mixed))


@cli.command()
@survey_options
@click.option(
    "--sbatch", type=click.IntRange(1, 100_000), default=None, metavar="N", help="Write a SLURM job array of N parts."
)
@click.option("--dry-run", is_flag=True, help="Print the plan; write nothing.")
def plan(run_dir: Path, cluster: str, sbatch: int | None, dry_run: bool, **given: Any) -> None:
    """Check everything and lay out a run without starting it.

    Example: gzsurvey plan --model model.onnx --targets targets.fits --cutouts mosaic:tiles --out run
    """
    from gzsurvey import survey
    from gzsurvey.recipes.cluster import load_cluster

    make = survey.dry_run if dry_run else survey.plan
    click.echo(make(_job(given), run_dir, load_cluster(cluster), sbatch))


@cli.command()
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.option("--cluster", default=None, help="none, laptop, a profile, or tcp://HOST:PORT. [default: laptop]")
@click.option("--part", default="1/1", metavar="I/N", help="Every N-th block, in this process, beside other parts.")
@click.option("--retry", default=None, metavar="20,21,22", help="Try the targets of these statuses again.")
@mixed
def run(run_dir: Path, cluster: str | None, part: str, retry: str | None, mixed: bool) -> None:
    """Process every pending block of RUN. Safe to repeat: finished blocks are skipped.

    Example: gzsurvey run run --cluster laptop
    """
    from gzsurvey import survey
    from gzsurvey.recipes.cluster import load_cluster
    from gzsurvey.survey.part import WHOLE, Part

    try:
        statuses = tuple(int(code) for code in names(retry))
    except ValueError:
        raise click.BadParameter(f"takes status codes such as 20,21, got {retry!r}", param_hint="--retry") from None
    try:
        chosen = Part.parse(part)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--part") from None
    place = load_cluster(cluster or ("laptop" if chosen == WHOLE else "none"))
    click.echo(survey.run(run_dir, place, statuses, chosen, mixed))


@cli.command()
@click.argument("run_dir", metavar="RUN", type=Directory)
def status(run_dir: Path) -> None:
    """Show how far RUN is, how fast, what failed and why, also while it is running.

    Example: gzsurvey status run
    """
    from gzsurvey import survey

    click.echo(survey.status(run_dir))


@cli.command()
@click.argument("run_dir", metavar="RUN", type=Directory)
@click.option("--campaign", default=None, help="Whose volunteers are imitated. [default: the plan's]")
@click.option("--prevalence", multiple=True, metavar="TASK.CLASS=SHARE", help="In the survey; or TASK=estimated.")
@click.option("--flavour", "flavours", multiple=True, type=click.Choice(["friendly"]), help="Also this catalogue.")
@click.option("--one-file", is_flag=True, help="FITS catalogues above 4 GB too; else they are written in parts.")
def publish(run_dir: Path, campaign: str | None, one_file: bool, **chosen: Any) -> None:
    """Write the catalogues of RUN from what is finished.

    Example: gzsurvey publish run --campaign gz2
    """
    from gzsurvey import survey
    from gzsurvey.outputs.parts import PART_BYTES

    limit = None if one_file else PART_BYTES
    click.echo(survey.publish(run_dir, names(campaign), part_bytes=limit, **chosen))


@cli.command()
@click.argument("run_dir", metavar="RUN", type=Directory)
def report(run_dir: Path) -> None:
    """Write one self-contained HTML page about RUN.

    Example: gzsurvey report run
    """
    from gzsurvey.report import report as write

    click.echo(write(run_dir))


@cli.command()
@click.argument("source")
@click.option("--bands", default="g,r,z", help="The source's bands.")
@click.option("--zeropoints", default=None, metavar="Z1,Z2,Z3", help="AB magnitude of one count, or keywords.")
def index(source: str, bands: str, zeropoints: str | None) -> None:
    """Build the index of a mosaic ahead of a run.

    Example: gzsurvey index 'mosaic:tiles/*_{band}.fits.fz'
    """
    from gzsurvey.cutouts.index_file import index as build_index

    click.echo(build_index(source, bands, zeropoints))


@cli.command()
def doctor() -> None:
    """Show versions, the GPU that is truly used, conflicts, free disk.

    Example: gzsurvey doctor
    """
    from gzsurvey.doctor import doctor as examine

    click.echo(examine())


for command in catalogue.COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point of ``gzsurvey`` and ``python -m gzsurvey``."""
    cli.main(prog_name="gzsurvey")
