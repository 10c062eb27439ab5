"""Where episodes end in flat files: the end flags of all writers, and arrays that look like one under another name.

A flag is an array of zeros and ones with one value for each row. Letter: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raybc.types import UserError

#: The environment ended the episode here (gym, D4RL; gymnasium, Minari; RLDS).
TERMINAL = ("terminals", "terminal", "terminated", "terminateds", "terminations", "is_terminal")
#: The episode ends here, for whatever reason: time limits (D4RL, gymnasium, d3rlpy), or any end (d3rlpy, robomimic,
#: SB3, IQL, RLDS, LeRobot).
LAST = (
    *("timeouts", "timeout", "truncations", "truncation", "truncated", "truncateds"),
    *("episode_terminals", "episode_terminal", "dones", "done", "dones_float", "is_last", "episode_end", "last"),
    *("next.done", "next.terminated", "next.truncated", "next_done", "trajectory_ends"),
)
#: The episode begins here (RLDS, SB3).
FIRST = ("is_first", "first", "episode_starts", "episode_start")
#: Zeros and ones that are no ends.
OTHERS = ("rewards", "reward", "success", "successes", "is_success", "goal_achieved", "masks", "mask", "discounts")
KNOWN = (*TERMINAL, *LAST, *FIRST)


@dataclass(frozen=True)
class Ends:
    """Where the episodes of a flat file end."""

    last_N: np.ndarray
    """bool (N,): whether an episode ends at a row."""
    terminal_N: np.ndarray | None
    """bool (N,): whether the environment ended it there; None where the file does not say."""
    names: tuple[str, ...]
    """The flags that were read."""

    @property
    def only_terminal(self) -> bool:
        """Whether only flags of `TERMINAL` were found."""
        return all(name in TERMINAL for name in self.names)


def ends_of(
    names: Collection[str], shape_of: Callable[[str], tuple[int, ...]], read: Callable[[str], np.ndarray], rows: int,
    path: Path, cut_at: int = 0,
) -> Ends:  # fmt: skip
    """The ends of the episodes in a flat file of `rows` rows.

    names: of its arrays. shape_of, read: shape and values of an array. cut_at: step limit of the environment, by which
    episodes were cut where the file has no flag for that (0: unknown). Raises `UserError` for flags of another length
    or with other values, where nothing ends, and for an array under an unknown name that looks like an end flag and
    contradicts the others.
    """
    flags = {name: flag(read(name), path, name, rows) for name in KNOWN if name in names}
    last = np.zeros(rows, bool)
    for name, values in flags.items():
        if name in FIRST:
            last[:-1] |= values[1:]
            last[-1:] = True
        else:
            last |= values
    terminal = [flags[name] for name in TERMINAL if name in flags]
    found = Ends(last, np.logical_or.reduce(terminal) if terminal else None, tuple(flags))
    if found.only_terminal and cut_at:
        found = Ends(_cut_at(last, cut_at), found.terminal_N, found.names)
    for name in sorted(set(names) - set(KNOWN) - set(OTHERS)):
        if shape_of(name) in ((rows,), (rows, 1)) and _ends_elsewhere(_column(read(name)), found.last_N):
            raise UserError(
                f"{path}: {name}: zeros and ones that look like ends of episodes and are not among "
                f"{', '.join(flags) or 'the end flags'}: expected a known name; rename it to timeouts if episodes end "
                "there, or else move it into a group infos"
            )
    if not found.last_N.any():
        timed = bool(set(flags) & {*LAST, *FIRST})
        hint = "" if timed else " (there are no timeouts; pass the environment's step_limit)"
        raise UserError(f"{path}: expected at least one episode that ends in {', '.join(flags)}, got none{hint}")
    return found


def flag(array: np.ndarray, path: Path, name: str, rows: int) -> np.ndarray:
    """An end flag as bool (N,). Raises `UserError` for another length, and for other values than 0 and 1."""
    array = _column(array)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise UserError(f"{path}: {name}: expected zeros and ones (n,), got shape {array.shape} of {array.dtype}")
    if len(array) != rows:
        raise UserError(f"{path}: {name}: expected {rows} rows as in observations, got {len(array)}")
    return array.astype(bool)


def _column(array: np.ndarray) -> np.ndarray:
    """(n, 1), as some files have it, as (n,)."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _ends_elsewhere(values_N: np.ndarray, last_N: np.ndarray) -> bool:
    """Whether an array looks like an end flag (single ones among zeros) that is set where no episode ends."""
    if values_N.dtype.kind not in "fiub" or not np.isin(values_N, (0, 1)).all():
        return False
    ones = values_N.astype(bool)
    single = not (ones[1:] & ones[:-1]).any()
    return bool(single and (ones & ~last_N).any())


def _cut_at(last_N: np.ndarray, limit: int) -> np.ndarray:
    """Also cut every episode after `limit` steps."""
    cuts, start = last_N.copy(), 0
    for end in [*(np.flatnonzero(last_N) + 1).tolist(), len(cuts)]:
        cuts[start + limit - 1 : end : limit] = True
        start = end
    return cuts
