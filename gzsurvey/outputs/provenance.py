"""Where a catalogue comes from, as W3C PROV-JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gzsurvey.outputs.aside import written_aside

Facts = Mapping[str, Any]
_PREFIX = "gzsurvey"
_NAMESPACE = "urn:gzsurvey:"


@dataclass(frozen=True)
class Provenance:
    """One activity, what it used and what it made."""

    activity: Facts
    """Versions, hardware, selection: what describes the run."""
    inputs: Mapping[str, Facts]
    """By name: targets, model, source, recipe."""
    products: Mapping[str, Facts]
    """By name: catalogue, ..."""
    started: str
    """ISO 8601, UTC."""
    finished: str

    def to_json(self) -> dict[str, Any]:
        """Return the document as plain values."""
        run, software = f"{_PREFIX}:run", f"{_PREFIX}:software"
        used = [f"{_PREFIX}:{name}" for name in self.inputs]
        made = [f"{_PREFIX}:{name}" for name in self.products]
        facts = [_attributes(facts) for facts in (*self.inputs.values(), *self.products.values())]
        agent_type = {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}
        times = {"prov:startTime": self.started, "prov:endTime": self.finished}
        return {
            "prefix": {_PREFIX: _NAMESPACE, "prov": "http://www.w3.org/ns/prov#"},
            "entity": dict(zip([*used, *made], facts, strict=True)),
            "activity": {run: times | _attributes(self.activity)},
            "agent": {software: {"prov:type": agent_type, "prov:label": "gzsurvey"}},
            "wasAssociatedWith": {"_:by": {"prov:activity": run, "prov:agent": software}},
            "used": {f"_:used{i}": {"prov:activity": run, "prov:entity": name} for i, name in enumerate(used)},
            "wasGeneratedBy": {
                f"_:made{i}": {"prov:entity": name, "prov:activity": run} for i, name in enumerate(made)
            },
            "wasDerivedFrom": {
                f"_:from{i}-{j}": {"prov:generatedEntity": product, "prov:usedEntity": source}
                for i, product in enumerate(made)
                for j, source in enumerate(used)
            },
        }

    def write(self, path: Path) -> None:
        """Write ``provenance.json``."""
        with written_aside(path) as aside:
            aside.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the checksum of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attributes(facts: Facts) -> dict[str, Any]:
    """Return facts under our prefix; PROV-JSON values are scalars, so structures become JSON text."""
    scalar = (str, int, float, bool)
    return {
        f"{_PREFIX}:{key}": value if isinstance(value, scalar) else json.dumps(value, ensure_ascii=False)
        for key, value in facts.items()
        if value is not None
    }
