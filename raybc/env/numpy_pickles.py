"""Arrays between processes with numpy 1 and numpy 2. Importing this module makes numpy 1 read what numpy 2 pickles.

numpy 2 has moved `numpy.core` to `numpy._core`. It reads pickles of numpy 1; numpy 1.26 reads those of numpy 2 up to
protocol 4, but protocol 5, which Ray uses, needs a module more.
"""

from __future__ import annotations

import importlib
import sys

import numpy as np

if int(np.__version__.split(".")[0]) < 2:
    sys.modules.setdefault("numpy._core.numeric", importlib.import_module("numpy.core.numeric"))
