"""Options of a run, grouped by component; users write them flat (`raybc.config.options`)."""

from raybc.config.component import CriticConfig, EncoderConfig, LanguageConfig, PolicyConfig, register
from raybc.config.data import ACTIONS, Normalization
from raybc.config.demos import DemosConfig
from raybc.config.options import OptionInfo, Role, flag_path, option
from raybc.config.run import MEMBER_FIELDS, SAMPLE_AXES, RunConfig, changed_options

__all__ = [
    "ACTIONS", "MEMBER_FIELDS", "SAMPLE_AXES", "CriticConfig", "DemosConfig", "EncoderConfig", "LanguageConfig",
    "Normalization", "OptionInfo", "PolicyConfig", "Role", "RunConfig", "changed_options", "flag_path", "option",
    "register",
]  # fmt: skip
