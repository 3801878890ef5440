"""Where the data files shipped with gzsurvey live: the only module that knows."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_SHIPPED = _PACKAGE / "_shipped"
ROOT = _SHIPPED if _SHIPPED.is_dir() else _PACKAGE.parent
"""Holds ``pipelines/`` and ``catalogs/``: in a wheel, an editable install or a checkout."""

RECIPES = ROOT / "pipelines"
CLUSTERS = ROOT / "pipelines" / "clusters"
CAMPAIGNS = ROOT / "catalogs" / "campaigns"
COLUMNS = ROOT / "catalogs" / "columns"
SURVEYS = ROOT / "catalogs" / "surveys"


def shipped_names(folder: Path) -> list[str]:
    """Return the names of the YAML files in `folder`, sorted.

    Parameters
    ----------
    folder : Path
        One of the folders of this module.

    Returns
    -------
    list of str
        File names without ``.yaml``.
    """
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find(folder: Path, name_or_path: str) -> Path:
    """Return the YAML file that a user means by `name_or_path`.

    Parameters
    ----------
    folder : Path
        One of the folders of this module.
    name_or_path : str
        A path ending in ``.yaml`` or ``.yml``, or a shipped name.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such file; lists the shipped names.
    """
    from gzsurvey.errors import RecipeError

    is_file = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_file else folder / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(shipped_names(folder))
        problem = "no such file" if is_file else f"no such name; shipped: {known}, or give a .yaml file"
        raise RecipeError(name_or_path, problem)
    return path
