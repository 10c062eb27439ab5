"""Data sets of the Hugging Face hub.

huggingface_hub lists the files, finds the user's token and compares checksums. The files themselves are downloaded by
`raybc.data.download`, which resumes: huggingface_hub 2.4 starts a file from the beginning again after its process was
stopped (https://github.com/huggingface/huggingface_hub/pull/4228), and some of these files have several GB.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import PurePosixPath
from types import ModuleType

from raybc.data.dataset import Dataset, hub_endpoint
from raybc.data.download import OnProgress, Unreachable, download, inside
from raybc.extras import require_extra
from raybc.types import UserError


def fetch_repository(dataset: Dataset, on_progress: OnProgress | None = None) -> None:
    """Download the repository of `dataset`, or the part of it that the data set is, to `dataset.path`.

    Files are downloaded to the folder `.NAME.parts` beside `dataset.path`, where a later call resumes. When all are
    complete and have the published checksums, they are renamed to `dataset.path`. Raises `Unreachable` where the hub
    does not answer or has no such files, `UserError` for a file with another checksum and where huggingface_hub is not
    installed.
    """
    (library,) = require_extra(f"{dataset.name}: downloading from the Hugging Face hub", "hub", "huggingface_hub")
    parts = dataset.path.with_name(f".{dataset.path.name}.parts")
    client = library.HfApi(endpoint=hub_endpoint(), library_name="raybc")
    repository = {"repo_id": dataset.repository, "repo_type": "dataset"}
    with _translated(library, dataset):
        revision = client.repo_info(**repository).sha
        tree = client.list_repo_tree(**repository, recursive=True, revision=revision)
        files = [entry.path for entry in tree if hasattr(entry, "blob_id") and _belongs(entry.path, dataset.within)]
        if not files:
            raise Unreachable(f"{dataset.source}: the hub has no such files")
        headers = library.utils.build_hf_headers(library_name="raybc")
        for name in files:
            target = parts / inside(name, dataset.source)
            if not target.exists():
                url = library.hf_hub_url(filename=name, **repository, revision=revision, endpoint=hub_endpoint())
                download(url, target, on_progress, headers)
        checked = client.verify_repo_checksums(**repository, revision=revision, local_dir=parts)
    if checked.mismatches:
        for file in checked.mismatches:
            (parts / file["path"]).unlink()
        raise UserError(
            "{source}: {path}: expected a file with {algorithm} {expected}, got {actual}; it was deleted, try "
            "again".format(source=dataset.source, **checked.mismatches[0])
        )
    os.rename(parts / dataset.within, dataset.path)
    shutil.rmtree(parts, ignore_errors=True)


def _belongs(name: str, within: str) -> bool:
    return not within or PurePosixPath(name).is_relative_to(within)


@contextlib.contextmanager
def _translated(library: ModuleType, dataset: Dataset) -> Iterator[None]:
    """What huggingface_hub raises where it cannot reach the hub becomes `Unreachable`."""
    try:
        yield
    except (OSError, library.errors.HTTPError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise Unreachable(f"{dataset.source}: {text}") from None
