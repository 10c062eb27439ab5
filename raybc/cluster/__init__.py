"""Ray: how raybc starts it, and what its machines have room for.

Importing this package sets Ray's environment. Ray reads it when it is imported itself, so modules that import Ray
import this package first.
"""

import logging
import os

#: Set unless the user has set them: no usage statistics; every log line of every worker; GPUs stay visible to actors
#: that reserve none; Tune adds no loggers and prints no tables beside ours and never starts Ray by itself.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
#: In a notebook Ray advises to install ipywidgets, which nothing of ours shows.
logging.getLogger("ray.widgets").setLevel(logging.WARNING)
