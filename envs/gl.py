"""Which offscreen GL library MuJoCo draws with; to be chosen before it is imported."""

from __future__ import annotations

import ctypes
import os
import sys


def choose_gl() -> None:
    """IndexSampler an offscreen GL library before MuJoCo is imported, unless the user has.

    EGL where its library loads, else OSMesa. With neither the variables stay unset: naming EGL would make `import
    mujoco` itself fail, also for those who want no images.
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
            break
    if os.environ.get("MUJOCO_GL") in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
