"""The settings of a run: typed sections, each setting with its default and its limits. configs/default.yaml documents
them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from dataclasses import asdict as tree
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipelines.errors import DataError
from pipelines.remote import Patience, Remote, is_remote
from pipelines.store import forms

from ..errors import RunError
from .precision import FULL, PRECISIONS, Precision
from .values import ANY, AUTO, FOLDER, IMAGES, MINUTES, Form

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from tdformer.options import Options

T = TypeVar("T")
Limits = Mapping[str, object]
"""See `setting`."""


def setting(default: T, **limits: object) -> T:
    """A field with limits: choices=(...), or least, above, most, below for a number or each of a list; form=: how it
    is written; registry=: whose names are choices too, as MODULE:NAME, since those who fill it are above this room and
    slow to import."""
    return field(default=default, metadata=limits)


FIRST_WEIGHTS = ("weights", "weights_sha256", "weights_head")
"""Keys of the section `model` that say with which weights a run begins."""


@dataclass
class ModelConfig:
    """Options of `tdformer.create_model`. null: the model's own, or the data set's (classes, channels, size).

    v_reset: a potential, or `soft` for the soft reset (V = H - V_th S). weights and what begins so are no options: what
    the first weights are. own: by name, options of a backbone from outside, which knows their types.
    """

    name: str = "quickstart"
    width: int | None = setting(None, least=1, most=2**20)
    depths: int | list[int] | None = field(default=None, metadata={"least": 1, "most": 2**12})
    heads: int | None = setting(None, least=1, most=2**20)
    mlp_ratio: float | None = setting(None, above=0, most=2**10)
    weights: str | None = setting(None, form=FOLDER)
    weights_sha256: str | None = None
    weights_head: str = setting("by_name", choices=("by_name", "new"))
    num_classes: int | None = setting(None, least=1)
    in_channels: int | None = setting(None, least=1)
    image_size: int | list[int] | None = field(default=None, metadata={"least": 1})
    time_steps: int | None = setting(None, least=1)
    segments: int | None = setting(None, least=1)
    feedback: str | list[int] | None = field(
        default=None, metadata={"choices": ("none", "first", "last", "all"), "least": 0}
    )
    cm: int | None = setting(None, choices=(1, 2, 3))
    pm: int | None = setting(None, choices=(1, 2, 3, 4))
    mixer: str | None = setting(None, choices=("concat", "processing", "add"))
    clamp: tuple[float, float] | None = None
    neuron: str | None = setting(None, choices=("lif", "plif"))
    tau: float | None = setting(None, least=1)
    threshold: float | None = setting(None, above=0)
    v_reset: float | str | None = None
    surrogate: str | None = setting(None, choices=("sigmoid", "arctan", "rectangular"))
    alpha: float | None = setting(None, above=0)
    detach_reset: bool | None = None
    segment_norm: str | None = setting(None, choices=("shared", "per_segment"))
    leaky_proj_lif: bool | None = None
    border_dtype: str | None = setting(None, choices=("fp32", "bf16"))
    own: dict[str, object] = field(default_factory=dict)

    def options(self) -> Options:
        """What is set, as keyword arguments of `tdformer.create_model(name, ...)`."""
        given = tree(self) | self.own
        given = {k: v for k, v in given.items() if v is not None and k not in ("name", "own", *FIRST_WEIGHTS)}
        return given | ({"v_reset": None} if self.v_reset == "soft" else {})


@dataclass
class AugmentConfig:
    scale: tuple[float, float] = setting((0.08, 1.0), above=0, most=1)
    ratio: tuple[float, float] = setting((0.75, 1.3333333333333333), above=0)
    crop_padding: int = setting(0, least=0)
    flip: float = setting(0.0, least=0, most=1)
    rand_augment: str | None = None
    rand_augment_ops: list[str] | None = None
    color_jitter: float = setting(0.0, least=0)
    erasing: float = setting(0.0, least=0, most=1)
    erasing_mode: str = setting("black", choices=("black", "const", "pixel"))
    events: bool = False


@dataclass
class FetchConfig:
    tries: int = setting(6, least=1)
    pause: float = setting(1.0, least=0)
    timeout: float = setting(60.0, above=0)


@dataclass
class DataConfig:
    dataset: str = "fashion_mnist"
    format: str = setting(forms.SHARDS.name, choices=tuple(forms.FORMS))
    root: str | None = setting(None, form=FOLDER)
    source: str | None = setting(None, form=FOLDER)
    size: int | None = setting(None, least=1)
    crop_ratio: float = setting(0.875, above=0, most=1)
    frames: str = setting("count", choices=("count", "time"))
    workers: int = setting(0, least=0)
    on_error: str = setting("raise", choices=("raise", "skip"))
    skips: int = setting(100, least=0)
    window: int | None = setting(None, least=1)
    share: float = setting(1.0, above=0, most=1)
    cache: str | None = setting(None, form=FOLDER)
    cache_gb: float = setting(50.0, above=0, most=10**9)
    fetch: FetchConfig = field(default_factory=FetchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mixup: float = setting(0.0, least=0)
    cutmix: float = setting(0.0, least=0)

    @property
    def folder(self) -> Path | Remote:
        """Where the shards are. Raises RunError for a root that nothing can open."""
        if self.root is None or not is_remote(self.root):
            return Path(self.root or f"data/{self.dataset}")
        try:
            return Remote(self.root, Patience(self.fetch.tries, self.fetch.pause, self.fetch.timeout))
        except DataError as e:
            raise RunError(f"data.root: {e}") from e

    @property
    def form(self) -> forms.Form:
        """What `format` names."""
        return forms.FORMS[self.format]

    @property
    def passes_over(self) -> bool:
        """Whether training passes over damaged samples."""
        return self.on_error == "skip"

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class TrainConfig:
    epochs: int = setting(1, least=1)
    global_batch: int = setting(128, least=1)
    micro_batch: int | str = setting(0, least=0, form=IMAGES)
    norm_batch: int | None = setting(None, least=1)
    lr: float = setting(1e-3, above=0)
    min_lr: float = setting(1e-5, least=0)
    schedule: str = setting("cosine", registry="cluster.train.schedule:SCHEDULES")
    warmup_epochs: float = setting(0.0, least=0)
    optimizer: str = setting("adamw", registry="cluster.build.optimizers:OPTIMIZERS")
    weight_decay: float = setting(0.05, least=0)
    betas: tuple[float, float] = setting((0.9, 0.999), least=0, below=1)
    eps: float = setting(1e-8, above=0)
    layer_decay: float = setting(1.0, above=0, most=1)
    label_smoothing: float = setting(0.1, least=0, below=1)
    clip_grad: float = setting(0.0, least=0)
    ema_decay: float = setting(0.0, least=0, below=1)
    alphas: list[float] | None = field(default=None, metadata={"least": 0})
    precision: str = setting(FULL.name, choices=tuple(PRECISIONS))
    loss_scale: float = setting(65536.0, least=1, most=2.0**100)
    growth_interval: int = setting(2000, least=1)
    tf32: bool = False
    eval_every_epochs: int = setting(1, least=1)
    processes: int = setting(0, least=0)
    threads: int = setting(0, least=0)
    freeze: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list, metadata={"registry": "cluster.train.hooks:HOOKS"})

    @property
    def at_once(self) -> int:
        """The images of `micro_batch`; 0: no number of them is named."""
        return 0 if isinstance(self.micro_batch, str) else self.micro_batch

    @property
    def computes_in(self) -> Precision:
        """What `precision` names."""
        return PRECISIONS[self.precision]


@dataclass
class EngineConfig:
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    deterministic: bool = True
    zero_stage: int = setting(0, choices=(0, 1, 2, 3))
    graph: bool = False
    reduce: str = setting("fp32", choices=("fp32", "bf16"))
    timeout_minutes: float = setting(10.0, above=0, most=10**6)


@dataclass
class RecomputeConfig:
    policy: str = setting(AUTO, choices=(AUTO,), registry="tdformer.policies:POLICIES")
    borders: int = setting(1, least=1)
    memory: float | None = setting(None, above=0)


@dataclass
class CheckpointConfig:
    every_minutes: float | None = setting(10.0, above=0, most=10**6)
    every_steps: int | None = setting(None, least=1)
    keep: int = setting(2, least=1)


@dataclass
class HealthConfig:
    """When a run warns, and when it gives up."""

    skips: int = setting(10, least=0)
    spike: float = setting(3.0, above=1)
    straggler: float = setting(1.5, above=1)
    firing_rate: tuple[float, float] = setting((0.0001, 0.8), least=0, most=1)
    silent: float = setting(0.9, least=0, most=1)


@dataclass
class LogConfig:
    every_steps: int = setting(10, least=1)
    wandb: str = setting("off", choices=("off", "offline", "online"))
    wandb_project: str = "tdformer"
    tensorboard: bool = False
    profile_steps: list[int] = field(default_factory=list, metadata={"least": 1})
    curves: bool = True
    figures: list[str] = field(default_factory=list, metadata={"registry": "cluster.run.figures:FIGURES"})

    @property
    def to_wandb(self) -> bool:
        """Whether a run is logged to wandb, now or to be sent later."""
        return self.wandb != "off"


@dataclass
class SiteConfig:
    """How this cluster is asked for nodes (`tdformer launch`); a file with these keys is `--site FILE`."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: int = setting(1440, least=1, form=MINUTES)
    signal_seconds: int = setting(300, least=1)
    cpus_per_process: int | None = setting(None, least=1)
    memory_gb: float | None = setting(None, above=0, most=10**6)
    gpu: str | None = None
    mail: str | None = None
    mail_on: str = "END,FAIL"
    restarts: int = setting(3, least=0)
    setup: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)
    srun: list[str] = field(default_factory=list)
    python: str | None = None


@dataclass
class Config:
    name: str = "run"
    seed: int = setting(0, least=0, below=2**63)
    runs_dir: str = setting("runs", form=FOLDER)
    plugins: list[str] = field(default_factory=list)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    recompute: RecomputeConfig = field(default_factory=RecomputeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    log: LogConfig = field(default_factory=LogConfig)
    site: SiteConfig = field(default_factory=SiteConfig)

    @property
    def run_path(self) -> Path:
        return Path(self.runs_dir) / self.name


RETIRED = {"train.sync_batchnorm": "train.norm_batch says over how many images BatchNorm takes its statistics"}
"""Settings of earlier versions. Runs that were begun with them go on without."""


def each(config: DataclassInstance, prefix: str = "") -> Iterator[tuple[str, object, Field[object]]]:
    """Every setting of a configuration or of one section: its key, its value, its field."""
    for f in fields(config):
        value, key = getattr(config, f.name), prefix + f.name
        if is_dataclass(value) and not isinstance(value, type):
            yield from each(value, key + ".")
        else:
            yield key, value, f


def flat(config: DataclassInstance, prefix: str = "") -> dict[str, object]:
    """`{"train.lr": 0.001, ...}`: every setting of a configuration or of one section."""
    return {key: value for key, value, _ in each(config, prefix)}


@functools.cache
def types() -> dict[str, tuple[str, Limits]]:
    """Every setting's key, its type as written above, and its limits."""
    return {key: (str(f.type), f.metadata) for key, _, f in each(Config())}


def is_open(key: str) -> bool:
    """Whether it is a section whose keys are known elsewhere: a setting that is a mapping."""
    return types().get(key, ("", {}))[0].startswith("dict[")


def type_of(key: str) -> tuple[str, Form | None]:
    """The type of a setting, also of a key in an open section, and how it is written where the type does not say it."""
    kind, limits = (ANY, {}) if is_open(key.rpartition(".")[0]) else types()[key]
    form = limits.get("form")
    return kind, form if isinstance(form, Form) else None
