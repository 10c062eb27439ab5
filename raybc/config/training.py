"""Options of the training engine: budget, optimiser, learning rate, early stopping, phases, arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raybc.config.options import CHANGED, Role, option

_EQUAL_STEPS = "pruning compares trials at equal training steps"
_FALLING = ({"lr_schedule": ("cosine", "rsqrt")},)
_PLATEAU = ({"lr_schedule": "plateau"},)
_FROZEN = ({"freeze_epochs": CHANGED}, {"freeze": CHANGED})
_PRUNED = "pruning ends trials, by their success"


@dataclass(frozen=True)
class BudgetOptions:
    """Budget and batches."""

    seed: int = option(
        0, role=Role.MEMBER, at_least=0, below=2**31, axis="seeds are members of a trial: list them under `seeds`"
    )
    """Decides initial weights, training noise and data order."""
    training_steps: int = option(1_000_000, at_least=1, axis=_EQUAL_STEPS, aliases=("offline_steps",))
    """Gradient steps."""
    batch_size: int = option(256, at_least=1)
    """Examples in a gradient step."""
    num_rounds: int = option(1, at_least=1, axis=_EQUAL_STEPS)
    """Rounds of training; with epochs_per_round, each ends with a checkpoint named after it."""
    epochs_per_round: int = option(0, at_least=0, axis=_EQUAL_STEPS)
    """Passes over the data per round; training_steps is then num_rounds x epochs_per_round epochs (0: no rounds)."""
    epochs: int = option(0, at_least=0, axis=_EQUAL_STEPS, aliases=("num_train_epochs",))
    """Passes over the data; training_steps is then epochs x steps per epoch (0: training_steps counts)."""


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimiser and learning rate."""

    optimizer: Literal["adamw", "adam"] = option("adamw", only_with=({"weight_decay": CHANGED},))
    """adamw: decoupled weight decay. adam: adds the decay to the gradient. Equal without weight_decay."""
    lr: float = option(3e-4, role=Role.MEMBER, above=0, aliases=("learning_rate",))
    """Learning rate."""
    lr_schedule: Literal["constant", "cosine", "plateau", "rsqrt"] = option("constant", role=Role.MEMBER)
    """cosine: falls to min_lr. plateau: multiplied by plateau_factor when the monitored loss stops falling. rsqrt:
    falls with the inverse square root of the step, to 0.71 lr at training_steps."""
    schedule_steps: int = option(0, role=Role.MEMBER, at_least=0, axis=_EQUAL_STEPS, only_with=_FALLING)
    """Steps over which cosine falls, and time scale of rsqrt (0: training_steps)."""
    schedule_after: Literal["hold", "restart"] = option(
        "hold", role=Role.MEMBER, axis=_EQUAL_STEPS, only_with=({"lr_schedule": "cosine", "schedule_steps": CHANGED},)
    )
    """After schedule_steps: hold min_lr, or restart at lr and fall again over the remaining steps."""
    warmup_steps: int = option(-1, role=Role.MEMBER, at_least=-1)
    """Steps of linear warm-up (-1: 3 % of training_steps, at least 50, with cosine and rsqrt; otherwise none)."""
    budget_warmup_ratio: float = option(
        0.03, role=Role.MEMBER, at_least=0, only_with=({"lr_schedule": ("cosine", "rsqrt"), "warmup_steps": -1},)
    )
    """Warm-up of a cosine or rsqrt schedule as a fraction of training_steps, if warmup_steps is -1."""
    budget_min_warmup_steps: int = option(
        50, role=Role.MEMBER, at_least=0, only_with=({"lr_schedule": ("cosine", "rsqrt"), "warmup_steps": -1},)
    )
    """Minimum number of these warm-up steps (limited to half of training_steps)."""
    min_lr: float = option(1e-6, role=Role.MEMBER, at_least=0, only_with=({"lr_schedule": ("cosine", "plateau")},))
    """Minimum learning rate of cosine and plateau schedules."""
    plateau_factor: float = option(0.5, role=Role.MEMBER, above=0, at_most=1, only_with=_PLATEAU)
    """Factor by which a plateau multiplies the learning rate."""
    plateau_patience: int = option(3, role=Role.MEMBER, at_least=0, only_with=_PLATEAU)
    """Checks without improvement (0.01 % of the loss) before a plateau lowers the rate."""
    stop_patience: int = option(0, role=Role.MEMBER, at_least=0, axis=_PRUNED, aliases=("patience",))
    """Early stopping: checks without improvement after which a member stops learning (0: never)."""
    stop_min_delta: float = option(
        0.0, role=Role.MEMBER, at_least=0, axis=_PRUNED, only_with=({"stop_patience": CHANGED},)
    )
    """Smallest decrease of the monitored loss that counts for stop_patience."""
    monitor_interval: int = option(
        0, at_least=0, aliases=("watch_interval",), only_with=(*_PLATEAU, {"stop_patience": CHANGED})
    )
    """Steps between checks of the loss (on the split `valid` if there is one, else in training); 0: one epoch."""
    weight_decay: float = option(0.0, role=Role.MEMBER, at_least=0)
    """Weight decay."""
    weight_decay_on: Literal["all", "matrices"] = option(
        "all", role=Role.MEMBER, only_with=({"weight_decay": CHANGED},)
    )
    """Parameters that decay. matrices: not biases, gains of norms, embeddings."""
    adam_beta1: float = option(0.9, role=Role.MEMBER, at_least=0, below=1)
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = option(0.999, role=Role.MEMBER, at_least=0, below=1)
    """Decay of Adam's mean of squared gradients."""
    grad_clip: float = option(0.0, role=Role.MEMBER, at_least=0)
    """Largest gradient norm of a member (0: no clipping)."""
    ema_decay: float = option(0.0, role=Role.MEMBER, at_least=0, below=1, off="")
    """Evaluate an exponential moving average of the weights with this decay (0: the weights themselves)."""
    ema_power: float = option(0.0, role=Role.MEMBER, at_least=0, only_with=({"ema_decay": CHANGED},))
    """At step t, limit the decay to 1 - t^-ema_power (Diffusion Policy: 0.75); 0: to (1 + t) / (10 + t)."""


@dataclass(frozen=True)
class InitOptions:
    """Initial weights."""

    init_from: str = option(
        "", role=Role.OUTPUT, axis="a sweep has one start", aliases=("pretrained_model_name_or_path",)
    )
    """Start from the weights of another policy: a bundle, or the folder of a training run or a sweep."""
    init_from_sha256: str = option("", needs=("init_from", "name a policy there"), axis="it is found in the bundle")
    """Required sha256 of these weights (empty: any; recorded when training starts)."""
    init_partial: bool = option(False, needs=("init_from", "name a policy there"), axis="a sweep has one start")
    """Load the weights that fit, and start the others as usual; otherwise all must fit."""


@dataclass(frozen=True)
class PhaseOptions:
    """Phases of training."""

    freeze: str = ""
    """Parameters to freeze: prefixes of their names, comma-separated, e.g. velocity_field.layers.0."""
    freeze_steps: int = option(-1, at_least=-1, only_with=({"freeze": CHANGED},))
    """Steps after which frozen parameters start to learn (-1: never)."""
    freeze_epochs: int = option(0, at_least=0)
    """Epochs in which only the head learns: frozen are the image encoders (of ResNets the backbones, with BatchNorm's
    statistics), or what `freeze` names. Then optimiser, plateaus and early stopping start again (0: no such phase)."""
    lr_head: float = option(0.0, role=Role.MEMBER, at_least=0, only_with=_FROZEN)
    """Learning rate while parameters are frozen (0: lr)."""
    lr_finetune: float = option(0.0, role=Role.MEMBER, at_least=0)
    """Learning rate when nothing is frozen any more (0: lr)."""
    unfreeze_layer4: bool = False
    """Of the backbones of ResNets, only layer4 ever learns; the other layers keep their weights and statistics."""


@dataclass(frozen=True)
class ArithmeticOptions:
    """Arithmetic and memory."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16 (autocast); parameters and optimiser stay in float32."""
    compile: Literal["auto", "off", "default", "reduce-overhead", "max-autotune"] = option("auto", role=Role.OUTPUT)
    """Mode of torch.compile. auto: reduce-overhead (CUDA graphs) on a GPU, off on a CPU."""
    accumulate: int = option(1, role=Role.OUTPUT, at_least=1)
    """Split batch_size into this many parts for the gradient: less memory, the same step. (gradient_accumulation_steps
    multiplies batch_size instead.)"""
    activation_checkpointing: bool = option(False, role=Role.OUTPUT, axis="it does not change a policy")
    """Keep only the inputs of layers and compute the rest again in the backward pass, which takes less memory and
    more time: of transformers and U-Nets."""
    memory_limit: float = option(0.0, role=Role.OUTPUT, at_least=0.0, axis="it does not change a policy")
    """GiB that demonstrations may take in main memory: larger data sets are memory-mapped, and images are read ahead up
    to this limit (0: 0.25 for data sets, and 0.5 for images that are read ahead)."""
    dataloader_num_workers: int = option(0, role=Role.OUTPUT, at_least=0, axis="it does not change a policy")
    """Threads that read images ahead of the trainer (0: 2; for videos that are decoded one per core, 2 to 16)."""
    videos: Literal["convert", "decode"] = option("convert", role=Role.OUTPUT, axis="it does not change a policy")
    """Videos of a LeRobot set. convert: decoded once, into memory or a file (see memory_limit); decode: while training,
    with half of memory_limit as cache (0: 0.5 GiB)."""

    @property
    def memory_bytes(self) -> int:
        """`memory_limit` in bytes; 0: no limit is set."""
        return int(self.memory_limit * 2**30)
