"""Reads the recipes of this folder. They are data: a recipe is only a way to write options."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from raybc.strict import did_you_mean, from_mapping
from raybc.types import UserError
from raybc.yaml_text import parse_yaml


@dataclass(frozen=True)
class Recipe:
    """A recipe; its fields are the keys of the file."""

    about: str
    """One line."""
    source: str
    """Paper and code, with the section or file."""
    differs: tuple[str, ...]
    """What differs from the source, and why."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a run, flat. What is not named has its default."""
    protocol: dict[str, str] = field(default_factory=dict)
    """How the source measured: data, starts, step limit, score, published numbers."""


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all recipes, sorted."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files(__package__).iterdir() if f.name.endswith(".yaml")))


def text_of(name: str, where: str) -> str:
    """The file of a recipe. Raises `UserError` with similar names for an unknown one; where: the flag or key."""
    if name not in names():
        raise UserError(f"{where}: unknown recipe {name!r}: {did_you_mean(name, names())}; `raybc recipes` lists them")
    return (files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name: str, where: str) -> Recipe:
    """The recipe `name`. Raises `UserError` as `text_of` does."""
    found = parse_yaml(text_of(name, where), f"{name}.yaml")
    return from_mapping(Recipe, found, name)


def options_of(name: str, where: str) -> Mapping[str, Any]:
    """Its options; empty without a name."""
    return read_recipe(name, where).options if name else {}
