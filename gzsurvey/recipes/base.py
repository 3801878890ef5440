"""What every YAML file of gzsurvey has in common: strict, frozen, one line per mistake."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from gzsurvey.errors import RecipeError


class Section(BaseModel):
    """A part of a YAML file. A key that is not declared is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def load(path: Path, model: type[SectionT], overrides: Iterable[str] = ()) -> SectionT:
    """Read one YAML file.

    Parameters
    ----------
    path : Path
        The file.
    model : type of Section
        What it must hold.
    overrides : iterable of str
        ``section.key=value``, each replacing one value.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file is no YAML, a key is misspelt, a value is out of range.
    """
    return parse(read_yaml(path), model, str(path), overrides)


def parse(content: dict[str, Any], model: type[SectionT], where: str, overrides: Iterable[str] = ()) -> SectionT:
    """Check `content` against `model`; `where` names its origin in errors.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A key is misspelt or a value out of range.
    """
    for override in overrides:
        _apply(content, override, where)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise RecipeError(where, _first_problem(error, model)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file cannot be read, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), f"cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(str(path), f"is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(str(path), "must hold 'key: value' lines")
    return content


def _apply(content: dict[str, Any], override: str, where: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise RecipeError(where, f"--set takes section.key=value, got {override!r}")
    *sections, last = key.split(".")
    for name in sections:
        inner = content.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(where, f"--set {override}: {name!r} is not a section")
        content = inner
    content[last] = yaml.safe_load(value)


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields if len(first["loc"]) == 1 else _keys(model))
        near = get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
        return f"unknown key {key!r}{hint}{more}"
    if first["type"] == "missing":
        return f"key {key!r} is missing{more}"
    text = first["msg"].removeprefix("Value error, ")
    value = repr(first["input"])
    return f"{key}: {text}, got {value if len(value) < 80 else value[:77] + '...'}{more}"


def _keys(model: type[BaseModel]) -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(name)
        for inner in _models_in(field.annotation):
            keys |= _keys(inner)
    return keys


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
