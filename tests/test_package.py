"""The wheel and the source distribution: built, complete, and installed where no checkout is."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, which is built from the source distribution, and that."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    source.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z", "--", *_PACKAGED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    files = [name for name in listed.stdout.split("\0") if name]
    packed = subprocess.run(["tar", "-c", "--", *files], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", str(source)], input=packed.stdout, check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    (archive,) = (folder / "dist").glob("*.tar.gz")
    return wheel, archive


_PACKAGED = ("pyproject.toml", "README.md", "constraints.txt", "raybc", "envs", "sweeps")


@pytest.mark.slow
def test_the_distributions_have_every_file(distributions: tuple[Path, Path]) -> None:
    wheel, archive = distributions
    expected = {
        str(place / path.relative_to(folder))
        for place, folder in ((Path("raybc"), ROOT / "raybc"), (Path("raybc/envs"), ROOT / "envs"))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert expected <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(archive) as files:
        members = {name.partition("/")[2] for name in files.getnames()}
    assert expected | {"README.md", "pyproject.toml"} <= members


@pytest.mark.slow
def test_the_metadata_are_valid_and_complete(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as files:
        (name,) = (n for n in files.namelist() if n.endswith(".dist-info/METADATA"))
        text = files.read(name)
    metadata = Metadata.from_email(text, validate=True)
    assert metadata.name == "raybc"
    assert metadata.summary
    assert metadata.description_content_type == "text/markdown"
    assert metadata.keywords
    assert metadata.classifiers
    assert str(metadata.requires_python) == ">=3.11"
    assert {"robosuite", "all", "dashboard"} <= set(metadata.provides_extra or ())
    assert email.message_from_bytes(text).get_payload(), "the README"


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1], ids=["wheel", "sdist"])
def test_an_installed_raybc_works_without_the_checkout(
    distributions: tuple[Path, Path], which: int, tmp_path: Path
) -> None:
    """In a new environment, which sees the dependencies of this one but not its raybc."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    built = ["--no-build-isolation"] if which else []
    env["PYTHONPATH"] = sysconfig.get_path("purelib")  # setuptools, for the source distribution
    installed = subprocess.run([*pip, *built, str(distributions[which])], env=env, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr

    def run(*command: str) -> str:
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # The new environment's own packages come first; those of this one follow, without its link to the checkout.
    where = run(str(python), "-c", "import raybc; print(raybc.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path / "env"), where
    program = str(tmp_path / "env" / "bin" / "raybc")
    assert "raybc 0." in run(program, "--version")
    assert "quickstart.yaml: " in run(program, "sweep", "--check")
    assert "dp_unet_pusht" in run(program, "recipes")
    assert "report" in run(program, "report", "--help")
