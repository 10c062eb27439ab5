"""Build the documentation site: python tools/site.py [FOLDER] (default build/site; the site is FOLDER/html).

mkdocs reads one folder of pages. Ours are the README, docs/, benchmarks/ and a few files beside them, so they are
copied with the places that they have here, and links between them stay as they are. The page of the Python API is
made from docstrings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Heading -> the public names below it, which mkdocstrings describes.
API = {
    "Training, searching, measuring": (
        "raybc.api.fitting.fit",
        "raybc.api.searching.sweep",
        "raybc.api.evaluating.evaluate",
        "raybc.api.runs.Run",
        "raybc.api.sweeps.Sweep",
        "raybc.api.sweeps.Winner",
        "raybc.api.evaluations.Evaluation",
        "raybc.api.show.Video",
    ),
    "Acting": ("raybc.load", "raybc.inference.policy.Policy", "raybc.serve.client.RemotePolicy"),
    "Options": ("raybc.config.options.option", "raybc.config.run.RunConfig"),
    "Policies": ("raybc.policies.base.Policy", "raybc.policies.base.Encoder", "raybc.policies.packed.PackedModule"),
    "Environments": (
        "raybc.envs.base.Task",
        "raybc.envs.base.SimEnv",
        "raybc.envs.base.Expert",
        "raybc.envs.batched.BatchedEnv",
        "raybc.envs.batched.Worlds",
        "raybc.env.Environment",
    ),
    "Data": (
        "raybc.api.reading.read",
        "raybc.api.arrays.from_arrays",
        "raybc.api.datasets.Dataset",
        "raybc.data.episodes.EpisodeStore",
        "raybc.data.formats.base",
    ),
    "Trainings of others": ("raybc.trainer.job.TrainerJob",),
    "Checks for extensions": ("raybc.testing",),
    "Errors": ("raybc.types.UserError",),
}


def api_page() -> str:
    lines = [
        "# Python",
        "",
        "What programs of yours may use. Shapes are named by letters: [DESIGN](docs/DESIGN.md).",
        "",
    ]
    for heading, names in API.items():
        lines += [f"## {heading}", ""] + [f"::: {name}\n" for name in names]
    return "\n".join(lines)


def gather(pages: Path) -> None:
    """Copy the pages and their images into the folder `pages`."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*"), *ROOT.glob("benchmarks/**/*.md")):
        if path.suffix in (".md", ".png", ".svg"):
            place = pages / ("index.md" if path.name == "README.md" else path.relative_to(ROOT))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    for path in ROOT.glob("docs/notebooks/*.ipynb"):
        show_notebook(path, pages / "docs/notebooks")
    for path in (*pages.glob("docs/*.md"), *pages.glob("index.md")):
        text = re.sub(r"\]\(\.\./README\.md", "](../index.md", path.read_text())
        path.write_text(re.sub(r"(\]\([\w./]*notebooks/\w+)\.ipynb\)", r"\1.md)", text))
    (pages / "api.md").write_text(api_page())


def show_notebook(path: Path, folder: Path) -> None:
    """Write a notebook with its outputs as a page, and its images beside it."""
    from nbconvert import MarkdownExporter

    folder.mkdir(parents=True, exist_ok=True)
    text, resources = MarkdownExporter().from_filename(str(path))
    for name, content in resources["outputs"].items():
        (folder / f"{path.stem}_{name}").write_bytes(content)
        text = text.replace(f"]({name})", f"]({path.stem}_{name})")
    text = re.sub(r"<table[^>]*>", "<table>", text)  # the theme lets plain tables scroll
    (folder / f"{path.stem}.md").write_text(re.sub(r"(\]\(\w+)\.ipynb\)", r"\1.md)", text))


def loads_from_the_network(site: Path) -> list[str]:
    """What pages of the site would load from elsewhere: scripts, styles, fonts and images."""
    loading = re.compile(
        r"""<(?:(?:script|img|iframe|video|source)[^>]*\ssrc|link[^>]*\shref)=["']?(https?://[^"'\s>]+)"""
    )
    found = [f"{p.name}: {url}" for p in site.rglob("*.html") for url in loading.findall(p.read_text())]
    styles = re.compile(r"url\(\s*[\"']?(https?://[^\"')]+)|@import\s+[\"'](https?://[^\"']+)")
    return found + [f"{p.name}: {a or b}" for p in site.rglob("*.css") for a, b in styles.findall(p.read_text())]


def main(folder: Path) -> int:
    shutil.rmtree(folder, ignore_errors=True)
    gather(folder / "pages")
    config = (ROOT / "mkdocs.yml").read_text().replace("build/site/", f"{folder.resolve()}/")
    config = config.replace("paths: [.]", f"paths: ['{ROOT}']")
    (folder / "mkdocs.yml").write_text(config)
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(folder / "mkdocs.yml")])
    if built.returncode:
        return built.returncode
    elsewhere = loads_from_the_network(folder / "html")
    print("\n".join([*elsewhere, f"site: {folder / 'html' / 'index.html'}"]))
    return 1 if elsewhere else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "site"))
