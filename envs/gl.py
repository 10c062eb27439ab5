"""Which offscreen GL library MuJoCo renders with; it must be chosen before MuJoCo is imported."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys

from raybc.types import UserError


def choose_gl() -> None:
    """Choose an offscreen GL library on Linux by MUJOCO_GL and PYOPENGL_PLATFORM, unless the user has set them.

    EGL if its library loads, else OSMesa. With neither, the variables stay unset: MUJOCO_GL=egl would make `import
    mujoco` itself fail, also where no images are wanted.
    """
    if sys.platform != "linux":
        return
    if "MUJOCO_GL" not in os.environ:
        for backend, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8")):
            try:
                ctypes.CDLL(library)
            except OSError:
                continue
            os.environ["MUJOCO_GL"] = backend
            if "mujoco.gl_context" in sys.modules:  # it was imported before, and chose a library for windows
                importlib.reload(sys.modules["mujoco.gl_context"])
            break
    if os.environ.get("MUJOCO_GL") in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])


def no_context(error: BaseException) -> UserError:
    """What is said where no offscreen GL context can be made; each GL library fails in its own way."""
    return UserError(
        f"no offscreen GL context (MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}): {error or type(error)}. Install a "
        "software renderer, `apt-get install libegl1 libgl1-mesa-dri`, or `apt-get install libosmesa6` and set "
        "MUJOCO_GL=osmesa and PYOPENGL_PLATFORM=osmesa; or run without images."
    )
