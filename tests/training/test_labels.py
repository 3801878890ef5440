from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from gzsurvey.errors import TableError
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.labels import read_labels
from gzsurvey.training.split import divide

GOOD = pd.DataFrame(
    {"id": ["a", "b", "c", "d", "e"], "label": [1, 0, 0, 1, 1], "ra": np.arange(5.0), "dec": np.arange(5.0)}
)

CLASSES = (FinetuneTask(),)


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[pd.DataFrame], Path]:
    def write(frame: pd.DataFrame) -> Path:
        frame.to_csv(tmp_path / "labels.csv", index=False)
        return tmp_path / "labels.csv"

    return write


@pytest.mark.parametrize("kind", ["csv", "ecsv", "fits", "vot", "parquet"])
def test_every_kind_of_table_reads_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"labels.{kind}"
    if kind == "parquet":
        GOOD.to_parquet(path)
    else:
        formats = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits", "vot": "votable"}
        Table.from_pandas(GOOD).write(path, format=formats[kind])
    labels = read_labels(path, (FinetuneTask(class_names={"1": "ring", "0": "none"}),))
    assert labels.only_task.classes == ("none", "ring")
    assert labels.only_task.target.tolist() == [1, 0, 0, 1, 1]
    assert labels.ids is not None
    assert labels.ids.tolist() == list("abcde")
    assert labels.ra.tolist() == [0, 1, 2, 3, 4]
    assert (labels.only_task.weight == 1).all()


def test_numbers_are_ordered_by_value_and_text_by_alphabet(csv: Callable[[pd.DataFrame], Path]) -> None:
    many = pd.DataFrame({"id": range(6), "label": [10, 9, 2, 10, 9, 2]})
    assert read_labels(csv(many), CLASSES).only_task.classes == ("2", "9", "10")
    named = many.assign(label=["spiral", "Bar", "arc"] * 2)
    assert read_labels(csv(named), CLASSES).only_task.classes == ("Bar", "arc", "spiral")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"label": [1, 0, None, 1, 1]}, r"empty or NaN.*row 2"),
        ({"label": [1, 1, 1, 1, 1]}, "all 5 labels are '1'"),
        ({"label": ["x", "y", "x", "x", "x"]}, r"class 'y' has one example.*row 1"),
        ({"label": [0.5, 0, 1, 1, 0]}, r"fractions, not classes.*row 0"),
        ({"id": list("abcab")}, r"id 'a' stands more than once.*row 0, 1, 3, 4"),
        ({"weight": [1, 1, -1, 1, 1]}, r"'weight' must be 0 or more.*row 2"),
        ({"dec": [0, 1, 95, 3, 4]}, r"outside the sky.*row 2"),
    ],
)
def test_labels_that_cannot_be_used_are_one_line(
    csv: Callable[[pd.DataFrame], Path], changes: dict[str, list[object]], problem: str
) -> None:
    with pytest.raises(TableError, match=problem) as caught:
        read_labels(csv(GOOD.assign(**changes)), CLASSES)
    assert "\n" not in str(caught.value)


def test_missing_columns_are_named(csv: Callable[[pd.DataFrame], Path]) -> None:
    with pytest.raises(TableError, match=r"no column 'ring'.*id, label"):
        read_labels(csv(GOOD), (FinetuneTask(label_column="ring"),))
    with pytest.raises(TableError, match="neither an id"):
        read_labels(csv(GOOD[["label"]]), CLASSES)


def test_a_class_name_for_no_label_is_refused(csv: Callable[[pd.DataFrame], Path]) -> None:
    with pytest.raises(TableError, match="'yes'"):
        read_labels(csv(GOOD), (FinetuneTask(class_names={"yes": "ring"}),))


def test_confidence_weighs(csv: Callable[[pd.DataFrame], Path]) -> None:
    labels = read_labels(csv(GOOD.assign(confidence=0.5)), CLASSES)
    assert labels.only_task.weight.tolist() == [0.5] * 5


def test_labels_of_weight_zero_count_as_unknown(csv: Callable[[pd.DataFrame], Path]) -> None:
    task = read_labels(csv(GOOD.assign(weight=[1, 2, 0, 1, 0])), CLASSES).only_task
    assert task.known.tolist() == [True, True, False, True, False]
    assert task.lacking(np.arange(5), 2) == "class '0' has 1 labels"


def test_division_is_stratified_repeatable_and_never_empty() -> None:
    target = np.array([0] * 80 + [1] * 20 + [2] * 2)
    chosen = divide(target, 0.2, seed=4)
    assert [int(chosen[target == k].sum()) for k in range(3)] == [16, 4, 1]
    assert np.array_equal(chosen, divide(target, 0.2, seed=4))
    assert not np.array_equal(chosen, divide(target, 0.2, seed=5))
