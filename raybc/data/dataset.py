"""`Dataset`: where demonstrations are published and where they are expected on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Dataset:
    """A data set by the name that users write."""

    name: str
    """The name, as written."""
    path: Path
    """The file or folder where it is expected."""
    format: str = ""
    """A key of `raybc.data.formats.FORMATS`; "" where the contents decide."""
    urls: tuple[str, ...] = ()
    """Files to download into the folder of `path`."""
    repository: str = ""
    """In place of `urls`: a data set of the Hugging Face hub, "OWNER/NAME"."""
    within: str = ""
    """The file or folder of the repository that becomes `path`; "" for all of it."""
    task: str = ""
    """The task that the data were recorded in; "" where the name does not tell."""
    archive: bool = False
    """Whether the only URL is a zip file, to be unpacked."""

    @property
    def source(self) -> str:
        """The address of what is published, for messages."""
        if not self.repository:
            return " and ".join(self.urls)
        address = f"{hub_endpoint()}/datasets/{self.repository}"
        if not self.within:
            return address
        return f"{address}/{'resolve' if Path(self.within).suffix else 'tree'}/main/{self.within}"

    def present(self) -> bool:
        """Whether it is on disk."""
        return self.path.exists()


def hub_endpoint() -> str:
    """The address of the Hugging Face hub, or of the mirror that its variable HF_ENDPOINT names."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
