"""``sha256.txt``: the checksum of every product, as ``sha256sum -c`` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.paths import RunPaths, parts_list
from gzsurvey.outputs.provenance import sha256_of

Sums = dict[Path, str]


def product_files(paths: RunPaths) -> list[Path]:
    """Return the files of a RUN that do not change once it is published, without the shards of ``predictions.zarr``."""
    single = [paths.plan, paths.targets, paths.model, paths.environment, paths.missing]
    folders = [paths.checks, paths.moc, paths.hats, *(parts_list(product).parent for product in paths.catalogues)]
    metadata = [paths.zarr / "zarr.json", *sorted(paths.zarr.glob("*/zarr.json"))]
    inside = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return [path for path in (*single, *paths.catalogues, *metadata, *inside) if path.is_file()]


def checksums_of(files: Iterable[Path]) -> Sums:
    """Return the sha256 of some files, hexadecimal."""
    return {path: sha256_of(path) for path in files}


def write_checksums(paths: RunPaths, sums: Mapping[Path, str]) -> None:
    """Write ``sha256.txt``, with the provenance's own."""
    complete = dict(sums) | {paths.provenance: sha256_of(paths.provenance)}
    lines = (f"{digest}  {path.relative_to(paths.run).as_posix()}\n" for path, digest in sorted(complete.items()))
    with written_aside(paths.checksums) as aside:
        aside.write_text("".join(lines), encoding="utf-8")


def read_checksums(paths: RunPaths) -> Iterator[tuple[Path, str]]:
    """Yield every file and its sha256 on record."""
    for line in paths.checksums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        yield paths.run / name, digest
