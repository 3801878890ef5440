"""A release is read back as others would: through its ReadMe, its checksums, its citation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.table import Table
from click.testing import CliRunner
from outputs.catalogues import make_card
from outputs.runs import make_run

import gzsurvey
from gzsurvey.card import Credit
from gzsurvey.cli import cli
from gzsurvey.deposit.cds import byte_by_byte, fields_of, write_table
from gzsurvey.errors import OutputConflict, RecipeError, RunIncomplete, VerificationFailed
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.opened import open_catalogue
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.authors import load_authors
from gzsurvey.survey import publish, verify

N = 400
TITLE = "Morphologies of 400 galaxies in a field of the São Paulo survey, as seen by a model of Galaxy Zoo's volunteers"
AUTHORS = """authors:
  - name: Lovelace, Ada
    affiliation: Observatoire de Genève
    orcid: https://orcid.org/0000-0002-1825-0097
  - name: The Galaxy Zoo volunteers
"""
CREDITS = (
    Credit(name="GZ DECaLS", licence="CC BY 4.0", citation="Walmsley et al. 2022", galaxies=10),
    Credit(name="Kaggle", licence="CC BY-NC-SA 4.0", citation="Willett et al. 2013", galaxies=20),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    make_run(folder / "run", make_card(credits=CREDITS), n=N)
    publish(folder / "run")
    (folder / "authors.yaml").write_text(AUTHORS)
    gzsurvey.release(folder / "run", folder / "out", TITLE, folder / "authors.yaml", "10.5281/zenodo.1234567", "1.1")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder / "run", tmp_path / "run"))


def read_back(table: Path, readme: Path) -> Table:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Table.read(table, format="ascii.cds", readme=str(readme))


def assert_same(text: Table, fits: Table, displays: dict[str, str]) -> None:
    assert text.colnames == fits.colnames
    for name in fits.colnames:
        ours, theirs = np.ma.asarray(text[name]), np.ma.asarray(fits[name])
        assert np.array_equal(np.ma.getmaskarray(ours), np.ma.getmaskarray(theirs)), name
        assert text[name].unit == fits[name].unit, name
        decimals = re.fullmatch(r"F\d+\.(\d+)", displays[name])
        a, b = ours.compressed(), theirs.compressed()
        if theirs.dtype.kind != "f":
            assert (a == np.strings.strip(b)).all() if b.dtype.kind == "U" else (a == b).all(), name
        elif decimals:
            assert np.abs(a - b).max(initial=0) <= 0.5001 * 10.0 ** -int(decimals[1]), name
        else:
            assert (a.astype(b.dtype) == b).all(), name


def test_the_text_is_read_through_its_readme(folder: Path) -> None:
    out = folder / "out"
    lines = (out / "ReadMe").read_text(encoding="ascii").splitlines()
    assert max(map(len, lines)) <= 80
    text, fits = read_back(out / "catalogue.dat", out / "ReadMe"), gzsurvey.read_catalogue(folder / "run")
    assert len(text) == N
    assert text["bar_no_fraction"].mask.any()
    columns = open_catalogue(folder / "run/catalogue.fits").columns
    assert_same(text, fits, {column.name: column.display for column in columns})
    for column in columns:
        assert text[column.name].description == column.description, column.name
    size = {len(line) for line in (out / "catalogue.dat").read_text(encoding="ascii").splitlines()}
    assert re.search(rf"^catalogue.dat +{size.pop()} +{N} ", "\n".join(lines), re.MULTILINE)
    assert not size


def test_odd_columns_and_extreme_values_survive(tmp_path: Path) -> None:
    long = "what_do_you_think_the_largest_of_the_odd_features_is_a_ring_fraction"
    odd = (
        Column("big", "K", null=-1, description="[1,2]? 3 I4 --- trap"),
        Column("tiny", "D", unit="nmgy", description="4 words E15.8 --- that look like a column, " * 4),
        Column("single", "E", unit="mag", description="?" * 3),
        Column("shown", "E", display="F6.4"),
        Column(long, "E", display="F6.4", description="x" * 100),
        Column("mag auto", "E", description="Name of two words"),
        Column("yes", "L"),
        Column("text", "A", 5),
    )
    rows = {
        "big": np.array([2**63 - 1, -(2**63), -1]),
        "tiny": np.array([5e-324, -1.7976931348623157e308, np.nan]),
        "single": np.array([np.float32(1e-45), np.float32(-3.4e38), np.inf], np.float32),
        "shown": np.array([-1234.5678, 0.00004, np.nan], np.float32),
        long: np.array([0.5, np.nan, 1], np.float32),
        "mag auto": np.array([np.pi, -0.0, 1], np.float32),
        "yes": np.array([True, False, True]),
        "text": np.array(["10", "", "a b"]),
    }
    with open_table(tmp_path / "odd.fits", odd, 3) as table:
        table.append(rows)
    catalogue = open_catalogue(tmp_path / "odd.fits")
    fields = fields_of(catalogue)
    write_table(tmp_path / "odd.dat", catalogue, fields)
    lines = byte_by_byte("odd.dat", fields)
    assert max(map(len, lines)) <= 80
    (tmp_path / "ReadMe").write_text("\n".join(lines) + "\n", encoding="ascii")
    text = read_back(tmp_path / "odd.dat", tmp_path / "ReadMe")
    assert text.colnames[:4] == ["big", "tiny", "single", "shown"]
    assert f"column {long} of" in " ".join(text.columns[4].description.split())
    text.rename_columns(text.colnames, [column.name for column in odd])
    assert "in nmgy" in text["tiny"].description
    fits = gzsurvey.read_catalogue(tmp_path / "odd.fits")
    fits["tiny"].unit = None
    assert_same(text, fits, {column.name: column.display for column in odd})


def test_every_file_is_listed_and_the_folder_is_a_run(folder: Path) -> None:
    out = folder / "out"
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "sha256.txt"], cwd=out, check=True)
    listed = {line.split("  ")[1] for line in (out / "sha256.txt").read_text().splitlines()}
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there - listed == {"sha256.txt"}
    assert listed <= there
    assert f"{N} rows are the same in all products" in str(verify(out))
    predicted = int((gzsurvey.read_catalogue(folder / "run")["status"] == 0).sum())
    assert len(gzsurvey.query(out, where="status == 0")) == predicted
    assert f"{predicted} of them with predictions" in (out / "README.md").read_text()
    listing = re.findall(r"^\| `([^`]+)` \| ", (out / "README.md").read_text(), re.MULTILINE)
    assert {name.split("/")[0] for name in there} <= set(listing)


def test_it_can_be_cited(folder: Path) -> None:
    cff = yaml.safe_load((folder / "out/CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert set(cff) == {
        "cff-version", "message", "type", "title", "authors", "version", "doi", "date-released", "license", "abstract",
        "keywords",
    }  # fmt: skip
    assert (cff["cff-version"], cff["type"], cff["title"]) == ("1.2.0", "dataset", TITLE)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", cff["date-released"])
    person, entity = cff["authors"]
    assert person == {
        "family-names": "Lovelace", "given-names": "Ada", "affiliation": "Observatoire de Genève",
        "orcid": "https://orcid.org/0000-0002-1825-0097",
    }  # fmt: skip
    assert entity == {"name": "The Galaxy Zoo volunteers"}
    zenodo = json.loads((folder / "out/.zenodo.json").read_text())
    assert (zenodo["upload_type"], zenodo["version"], zenodo["doi"]) == ("dataset", "1.1", "10.5281/zenodo.1234567")
    assert zenodo["creators"][0]["orcid"] == "0000-0002-1825-0097"
    assert zenodo["creators"][1] == {"name": "The Galaxy Zoo volunteers"}


def test_licence_and_limits_are_said_aloud(folder: Path) -> None:
    said = str(gzsurvey.release(
        folder / "run", folder / "out", TITLE, folder / "authors.yaml", "10.5281/zenodo.1234567", "1.1"
    ))  # fmt: skip
    readme, zenodo = (folder / "out/README.md").read_text(), (folder / "out/.zenodo.json").read_text()
    cds = " ".join((folder / "out/ReadMe").read_text().split())
    for text in (said, readme, zenodo, cds):
        assert "NON-COMMERCIAL: trained on Kaggle under CC BY-NC-SA 4.0" in text
    for text in (readme, zenodo, cds):
        assert "trained on simulated galaxies only: it is not for real sky" in text
        assert "not debiased" in text
    assert "Cite: Willett et al. 2013" in readme
    assert "Cite: Willett et al. 2013" in cds
    assert json.loads(zenodo)["license"] == "cc-by-nc-sa-4.0"


def test_repeating_finishes_and_another_title_is_refused(folder: Path, run: Path, tmp_path: Path) -> None:
    authors, out = folder / "authors.yaml", tmp_path / "out"
    gzsurvey.release(run, out, "One", authors)
    before = {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]}
    gzsurvey.release(run, out, "One", authors)
    assert {path: path.stat().st_mtime_ns for path in [out, *out.rglob("*")]} == before
    with pytest.raises(OutputConflict, match=r"title was One, now Two\. Choose"):
        gzsurvey.release(run, out, "Two", authors)
    publish(run, campaigns=["gz2"])
    subprocess.run(["sha256sum", "--check", "--quiet", "sha256.txt"], cwd=out, check=True)
    with pytest.raises(OutputConflict, match="sha256_of_run was"):
        gzsurvey.release(run, out, "One", authors)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(RecipeError, match="mine: holds other things than a release"):
        gzsurvey.release(run, tmp_path / "mine", "One", authors)
    assert (tmp_path / "mine/thesis.tex").is_file()


def test_what_is_not_whole_is_refused(folder: Path, run: Path, tmp_path: Path) -> None:
    authors, out, paths = folder / "authors.yaml", tmp_path / "out", RunPaths(run)
    content = paths.missing.read_bytes()
    paths.missing.write_bytes(content[:-1] + b"!")
    with pytest.raises(VerificationFailed, match=r"missing\.ecsv is not the file that was published"):
        gzsurvey.release(run, out, "One", authors)
    paths.missing.unlink()
    with pytest.raises(VerificationFailed, match=r"missing\.ecsv is missing"):
        gzsurvey.release(run, out, "One", authors)
    entry = paths.ledger_entry(1)
    entry.write_text(re.sub(r'"sha256": "[0-9a-f]{4}', '"sha256": "0000', entry.read_text()))
    with pytest.raises(VerificationFailed, match="changed after it was published"):
        gzsurvey.release(run, out, "One", authors)
    paths.provenance.write_text("{")
    with pytest.raises(VerificationFailed, match=r"provenance\.json is not the file"):
        gzsurvey.release(run, out, "One", authors)
    entry.unlink()
    with pytest.raises(RunIncomplete, match="1 of 2 blocks are not finished"):
        gzsurvey.release(run, out, "One", authors)
    make_run(tmp_path / "young", n=20)
    with pytest.raises(RecipeError, match=r"make it with 'gzsurvey publish'"):
        gzsurvey.release(tmp_path / "young", out, "One", authors)
    assert not out.exists()
    assert not list(tmp_path.glob(".part.*"))


@pytest.mark.slow
def test_parts_text_ids_and_no_positions(folder: Path, tmp_path: Path) -> None:
    run, out, n = tmp_path / "run", tmp_path / "out", 300
    nowhere = np.full(n, np.nan)
    ids = np.array([f"north_{i}" for i in range(n)])
    make_run(run, n=n, id=ids, ra=nowhere, dec=nowhere, healpix_29=np.full(n, -1))
    publish(run, part_bytes=40_000)
    gzsurvey.release(run, out, "One", folder / "authors.yaml")
    text = read_back(out / "catalogue.dat", out / "ReadMe")
    assert text["ra"].mask.all()
    columns = open_catalogue(out / "catalogue.fits").columns
    assert_same(text, gzsurvey.read_catalogue(run), {column.name: column.display for column in columns})
    readme = (out / "README.md").read_text()
    assert "topcat catalogue/part-" in readme
    assert "lsdb" not in readme


def test_authors_are_checked(tmp_path: Path) -> None:
    table, text = tmp_path / "authors.csv", tmp_path / "authors.yaml"
    text.write_text(AUTHORS)
    table.write_text(
        'name,affiliation,ORCID\n"Lovelace, Ada",Observatoire de Genève,0000-0002-1825-0097\n'
        "The Galaxy Zoo volunteers,,\n"
    )
    assert load_authors(table) == load_authors(text)
    for wrong, said in (
        ("{name: 'A, B', orcid: 0000-0002-1825-0098}", "is no ORCID"),
        ("{name: Ada Lovelace, orcid: 0000-0002-1825-0097}", "write the name as 'Family, Given'"),
        ("{name: 'Lovelace,'}", "a name is 'Family, Given'"),
        ("{name: 'A, B', afiliation: X}", "did you mean 'affiliation'"),
    ):
        text.write_text(f"authors: [{wrong}]\n")
        with pytest.raises(RecipeError, match=said):
            load_authors(text)
    table.write_text("name,affiliation\nLovelace, Ada, Geneva\n")
    with pytest.raises(RecipeError, match="author 0 has another number of cells"):
        load_authors(table)


def test_bad_options_are_one_line(folder: Path, tmp_path: Path) -> None:
    given = ["release", str(folder / "run"), str(tmp_path / "out"), "--authors", str(folder / "authors.yaml")]
    for options, said in (
        (["--title", " "], "--title: is empty"),
        (["--title", "One", "--doi", "zenodo 12"], "--doi: 'zenodo 12' is no DOI"),
    ):
        done = CliRunner().invoke(cli, [*given, *options])
        assert done.exit_code == 1
        assert said in done.output
        assert done.output.count("\n") == 1
