"""Where tests find data that are too large for the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import ROOT, TEST_DATA, recorded


def test_recorded_data_lie_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demos.hdf5").touch()
    monkeypatch.setenv(TEST_DATA, str(tmp_path))
    assert recorded("demos.hdf5") == tmp_path / "demos.hdf5"


@pytest.mark.parametrize("value", ["", None])
def test_missing_data_name_the_variable(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable the folder is ../shared/data, beside the repository."""
    if value is None:
        monkeypatch.delenv(TEST_DATA, raising=False)
    else:
        monkeypatch.setenv(TEST_DATA, value)
    place = ROOT.parent / "shared" / "data" / "nothing.hdf5"
    with pytest.raises(pytest.skip.Exception) as skipped:
        recorded("nothing.hdf5")
    reason = f"no recorded data at {place}: set RAYBC_TEST_DATA to the folder that holds nothing.hdf5"
    assert str(skipped.value) == reason
