"""The configuration of a run: typed, each value checked as it is read. configs/default.yaml documents it."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import DataError
from pipelines.remote import Patience, Remote, check_public, is_command, is_remote, masked

from ..errors import RunError
from . import values
from .values import either, show

RECIPES = Path(__file__).parents[1] / "recipes"
"""The recipes that come with us: in the tree a link to configs/, in a wheel its files."""


def setting(default: Any, **limits: Any) -> Any:
    """A field with limits: choices=(...), or least, above, most, below for a number or each of a list; form=: how it
    is written."""
    return field(default=default, metadata=limits)


@dataclass
class ModelConfig:
    """Options of `tdformer.create_model`. null: the model's own, or the data set's (classes, channels, size).

    v_reset: a potential, or `soft` for the soft reset (V = H - V_th S).
    """

    name: str = "quickstart"
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
    mixer: str | None = setting(None, choices=("concat", "add"))
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

    def options(self) -> dict[str, Any]:
        """What is set, as keyword arguments of `tdformer.create_model(name, ...)`."""
        given = {k: v for k, v in asdict(self).items() if v is not None and k != "name"}
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
    format: str = setting("webdataset", choices=("webdataset", "ffcv"))
    root: str | None = setting(None, form=values.FOLDER)
    source: str | None = setting(None, form=values.FOLDER)
    size: int | None = setting(None, least=1)
    crop_ratio: float = setting(0.875, above=0, most=1)
    frames: str = setting("count", choices=("count", "time"))
    workers: int = setting(0, least=0)
    on_error: str = setting("raise", choices=("raise", "skip"))
    skips: int = setting(100, least=0)
    window: int | None = setting(None, least=1)
    cache: str | None = setting(None, form=values.FOLDER)
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
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0


@dataclass
class TrainConfig:
    epochs: int = setting(1, least=1)
    global_batch: int = setting(128, least=1)
    micro_batch: int = setting(0, least=0)
    norm_batch: int | None = setting(None, least=1)
    lr: float = setting(1e-3, above=0)
    min_lr: float = setting(1e-5, least=0)
    warmup_epochs: float = setting(0.0, least=0)
    weight_decay: float = setting(0.05, least=0)
    betas: tuple[float, float] = setting((0.9, 0.999), least=0, below=1)
    eps: float = setting(1e-8, above=0)
    layer_decay: float = setting(1.0, above=0, most=1)
    label_smoothing: float = setting(0.1, least=0, below=1)
    clip_grad: float = setting(0.0, least=0)
    ema_decay: float = setting(0.0, least=0, below=1)
    alphas: list[float] | None = field(default=None, metadata={"least": 0})
    precision: str = setting("fp32", choices=("fp32", "bf16"))
    tf32: bool = False
    eval_every_epochs: int = setting(1, least=1)
    processes: int = setting(0, least=0)
    threads: int = setting(0, least=0)
    hooks: list[str] = field(default_factory=list)


@dataclass
class EngineConfig:
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    deterministic: bool = True
    zero_stage: int = setting(0, choices=(0, 1, 2, 3))
    reduce: str = setting("fp32", choices=("fp32", "bf16"))
    timeout_minutes: float = setting(10.0, above=0, most=10**6)


@dataclass
class RecomputeConfig:
    policy: str = setting("auto", choices=("none", "block", "time", "unit", "auto"))
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


@dataclass
class SiteConfig:
    """How this cluster is asked for nodes (`tdformer launch`); a file with these keys is `--site FILE`."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    minutes: int = setting(1440, least=1, form=values.MINUTES)
    signal_seconds: int = setting(300, least=1)
    cpus_per_process: int | None = setting(None, least=1)
    memory_gb: float | None = setting(None, above=0, most=10**6)
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
    runs_dir: str = setting("runs", form=values.FOLDER)
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

# What may differ when a run goes on: where things lie, how often they are kept, how the work is spread, and in which
# order sums are taken (engine.deterministic; starts.jsonl notes it). The rest decides the numbers: train.tf32 is other
# arithmetic. (Whether a checkpoint loads on other processes is for the checkpoint to say.)
NEUTRAL = frozenset(
    (
        "name",
        "runs_dir",
        "data.root",
        "data.source",
        "data.workers",
        "data.on_error",
        "data.skips",
        "data.cache",
        "data.cache_gb",
        *(f"data.fetch.{f.name}" for f in fields(FetchConfig)),
        "train.micro_batch",
        "train.processes",
        "train.threads",
        "engine.device",
        "engine.deterministic",
        "engine.zero_stage",
        "recompute.policy",
        "recompute.borders",
        "recompute.memory",
        "checkpoint.every_minutes",
        "checkpoint.every_steps",
        "checkpoint.keep",
        "log.wandb",
        "log.wandb_project",
        "log.tensorboard",
        "engine.timeout_minutes",
        *(f"health.{f.name}" for f in fields(HealthConfig)),
        *(f"site.{f.name}" for f in fields(SiteConfig)),
    )
)


def load(path: str | Path | None = None, overrides: Sequence[str] = (), site: Path | None = None) -> Config:
    """The defaults, the keys of the section `site` in the YAML file `site`, the YAML file or recipe `path`, then
    `key=value` overrides; checked. `${...}` is replaced by the setting or the environment's variable that it names.
    Raises RunError."""
    layers = _site(site)
    if path is not None:
        path = recipe(path)
        layers.append(_layer(values.file_text(path, _recipes_like(path)), str(path)))
    config = _made([*layers, *map(_override, overrides)])
    if config.data.root is not None:
        try:
            check_public(config.data.root)
        except DataError as e:
            raise RunError(f"data.root: {e}") from e
    return config


def stored(path: Path, overrides: Sequence[str] = (), kept: Any = None, site: Path | None = None) -> Config:
    """A configuration that `to_yaml` wrote to the file at `path`, or `kept`, what `flat` gave and that file has; then
    the keys of the section `site` in a file, and overrides. It is whole, and maybe a stranger's: nothing in it is
    resolved. Raises RunError."""
    try:
        text = values.file_text(path) if kept is None else values.dump(kept)
    except UnicodeEncodeError as e:
        raise RunError(f"{path}: its configuration has a text that is not UTF-8") from e
    return _made([_layer(text, str(path), literal=True), *_site(site), *map(_override, overrides)])


def _site(file: Path | None) -> list[dict[str, Any]]:
    return [] if file is None else [_layer(values.file_text(file), str(file), "site")]


COMMANDS = ("data.root", "site.setup", "site.sbatch", "site.srun", "site.python")
"""Settings that can hold commands; data.root where it is `pipe:`."""


def check_commands(
    config: Config, where: Path, overrides: Sequence[str], keys: Sequence[str] = COMMANDS, site: Path | None = None
) -> None:
    """Raises RunError where `config`, which was stored in `where`, has a command that neither `overrides` nor the file
    `site` gives: what is stored can be a stranger's, and is not run because it is there."""
    settings, given = flat(config), {name for layer in [*_site(site), *map(_override, overrides)] for name in layer}
    for key in keys:
        value = settings[key]
        if value and key not in given and (key != "data.root" or is_command(value)):
            raise RunError(
                f"{where} has a stored command, {key}={show(value)}, which is only run where it is given again"
                f": look at it, and write {key}=... on the command line"
            )


def recipe(path: str | Path) -> Path:
    """The file of our recipe, where `path` is the name of one; any other path, or one that exists, as it is."""
    path = Path(path)
    ours = recipes().get(str(path))
    return path if ours is None or (path.exists() and not path.is_dir()) else ours


def recipes() -> dict[str, Path]:
    """Name and file of each."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def _recipes_like(path: Path) -> str:
    """The end of a line: recipes whose names are near; of a word that is near none, all."""
    like = difflib.get_close_matches(path.stem, recipes()) or (recipes() if len(path.parts) == 1 else ())
    return f"; recipes: {', '.join(like)}" if like else ""


def to_yaml(config: Config) -> str:
    """The whole configuration, as `load` and `stored` read it."""
    return values.dump(asdict(config))


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"train.lr": 0.001, ...}`: every setting of a configuration or of one section."""
    values: dict[str, Any] = {}
    for f in fields(config):
        value, key = getattr(config, f.name), prefix + f.name
        values |= flat(value, key + ".") if is_dataclass(value) else {key: value}
    return values


def differences(one: Config, other: Config) -> list[str]:
    """The settings that differ and change the numbers of a run: `train.lr (0.001, now 0.002)`."""
    a, b = (flat(config) | {"train.norm_batch": norm_batch(config)} for config in (one, other))
    return [f"{k} ({show(a[k])}, now {show(b[k])})" for k in a if k not in NEUTRAL and a[k] != b[k]]


@dataclass(frozen=True)
class BatchPlan:
    """How `global_batch` images become one optimizer step: world x accumulation x micro_batch; and how BatchNorm sees
    them: by `norm_batch`, which a micro-batch holds some of, or `norm_ranks` ranks hold together."""

    global_batch: int
    world: int
    micro_batch: int
    accumulation: int
    norm_batch: int
    norm_ranks: int


USUAL_NORM_BATCH = 128
"""Images, about, where a configuration names no `train.norm_batch`."""


def norm_batch(config: Config) -> int:
    """The images that BatchNorm takes its statistics over: a property of the recipe, not of the processes.

    Where the configuration names none: its micro-batch, or else the divisor of its global batch nearest to 128.
    """
    train, usual = config.train, USUAL_NORM_BATCH
    divisors = (n for n in range(1, min(train.global_batch, usual**2) + 1) if train.global_batch % n == 0)
    return train.norm_batch or train.micro_batch or min(divisors, key=lambda n: max(n / usual, usual / n))


def resolve(config: Config, world: int, dataset_size: int | None = None) -> BatchPlan:
    """The micro-batch and accumulation of each of `world` processes. Raises RunError where there are none."""
    check(config, world, dataset_size)
    if config.engine.reduce == "bf16" and not (config.train.precision == "bf16" and config.engine.zero_stage):
        raise RunError("engine.reduce=bf16 goes with train.precision=bf16 and engine.zero_stage 1, 2 or 3; set it fp32")
    return _plan(config, world)


def _plan(config: Config, asked: int | None) -> BatchPlan:
    """asked: the processes; None: not known yet, and nothing is refused that some number of them could do."""
    world, batch, micro, norm = asked or 1, config.train.global_batch, config.train.micro_batch, norm_batch(config)
    if batch % world:
        raise RunError(f"train.global_batch={batch} is not divisible by the {world} processes")
    share = batch // world
    if micro and share % micro:
        whose = f"the {share} images of each process" if world > 1 else f"{share} images"
        raise RunError(f"train.micro_batch={micro} does not divide {whose} (train.global_batch={batch})")
    if batch % norm:
        raise RunError(f"train.norm_batch={norm} does not divide train.global_batch={batch}")
    fits = share if share % norm == 0 else math.gcd(share, norm)  # this one does on any number of processes
    micro = micro or fits
    if config.data.mixes and micro % 2:
        key = f"train.micro_batch={micro}" if config.train.micro_batch else f"a share of {micro} images a process"
        raise RunError(f"data.mixup and data.cutmix mix images in pairs, and {key} is odd; make it even")
    ranks = max(1, norm // micro)  # that hold one norm batch together
    if asked and (micro * ranks % norm or world % ranks):
        raise RunError(
            f"train.norm_batch={norm}: BatchNorm takes its statistics over {norm} images, and {world} x "
            f"train.micro_batch={micro} at once are not made of that many; set train.micro_batch={fits}"
        )
    return BatchPlan(batch, world, micro, share // micro, norm, ranks)


def check(config: Config, world: int | None = None, dataset_size: int | None = None) -> None:
    """Refuse what cannot work: the values, how the batch splits over `world`, its size against the data."""
    for key, value, limits in _settings(config):
        _check_limits(key, value, limits)
    model, train, alphas = config.model, config.train, config.train.alphas
    if not config.name or config.name in (".", "..") or "/" in config.name or "\0" in config.name:
        raise RunError(f"name is {config.name!r}; it becomes a folder in runs_dir, so use a plain file name")
    if isinstance(model.v_reset, str) and model.v_reset != "soft":
        raise RunError(f"model.v_reset is {model.v_reset}; give a number or soft")
    if isinstance(model.image_size, list) and len(model.image_size) != 2:
        raise RunError(f"model.image_size is {show(model.image_size)}; give a number or [height, width]")
    if isinstance(folder := config.data.folder, Remote) and config.data.window is None:
        raise RunError(
            f"data.root is {folder}, not a local folder, and all its shards cannot be shuffled together; "
            "set data.window, such as data.window=8"
        )
    if isinstance(folder, Remote) and config.data.format == "ffcv":
        raise RunError(f"data.root is {folder}, and FFCV files are read from local disks; set data.format=webdataset")
    for key in ("scale", "ratio"):
        low, high = getattr(config.data.augment, key)
        if low > high:
            raise RunError(f"data.augment.{key} is {show([low, high])}; the smaller one comes first")
    if model.time_steps and model.segments and model.time_steps % model.segments:
        raise RunError(
            f"model.segments={model.segments} does not divide model.time_steps={model.time_steps}; "
            f"choose {either([str(d) for d in range(1, min(model.time_steps, 1024) + 1) if model.time_steps % d == 0])}"
        )
    if isinstance(model.feedback, list) and len(set(model.feedback)) != len(model.feedback):
        raise RunError(f"model.feedback names a block twice: {show(model.feedback)}")
    if model.clamp and not model.clamp[0] < model.clamp[1]:
        raise RunError(f"model.clamp is {show(model.clamp)}; the lower bound b comes first and is below a")
    if alphas is not None:
        if model.segments and len(alphas) != model.segments:
            raise RunError(f"train.alphas has {len(alphas)} entries for model.segments={model.segments}")
        if abs(sum(alphas) - 1) > 1e-6:
            raise RunError(f"train.alphas sums to {sum(alphas):g}; the weights of the segments sum to 1")
    if train.min_lr > train.lr:
        raise RunError(f"train.min_lr={train.min_lr:g} is above train.lr={train.lr:g}")
    if train.warmup_epochs > train.epochs:
        raise RunError(f"train.warmup_epochs={train.warmup_epochs:g} exceeds train.epochs={train.epochs}")
    if dataset_size is not None and dataset_size < train.global_batch:
        raise RunError(f"train.global_batch={train.global_batch} exceeds the {dataset_size} training images")
    lines = {"name": config.name, "runs_dir": config.runs_dir, **flat(config.site, "site.")}
    for key, value in lines.items():
        texts = value if isinstance(value, list) else [value]
        if key != "site.setup" and any("\n" in str(text) for text in texts):
            raise RunError(f"{key} is {value!r}; it becomes a line of the job's script, so it must be one")
    project = config.log.wandb_project
    if config.log.wandb != "off" and not re.fullmatch(r"([^/\\#?%:]+/)?[^/\\#?%:]{1,128}", project):
        raise RunError(f"log.wandb_project is {project!r}; give PROJECT or ENTITY/PROJECT, without \\ # ? % :")
    for entry in config.site.sbatch:
        if entry.startswith("-"):
            raise RunError(f"site.sbatch has {entry!r}; write key=value or key, without dashes")
    _plan(config, world)


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    for f in fields(config):
        value, key = getattr(config, f.name), prefix + f.name
        if is_dataclass(value):
            yield from _settings(value, key + ".")
        else:
            yield key, value, f.metadata


def _check_limits(key: str, value: Any, limits: Mapping[str, Any]) -> None:
    if value is None:
        return
    choices = limits.get("choices")
    many = isinstance(value, (list, tuple))
    if choices and not many and value not in choices:
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RunError(f"{key} is {show(value)}; choose {either([str(c) for c in choices])}{hint}")
    for number in value if many else [value]:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise RunError(f"{key} is {show(value)}; it must fit into 64 bits")
        if not math.isfinite(number):
            raise RunError(f"{key} is {show(value)}; it must be finite")
        for limit, words, holds in (
            ("least", "at least", lambda x, y: x >= y),
            ("above", "above", lambda x, y: x > y),
            ("most", "at most", lambda x, y: x <= y),
            ("below", "below", lambda x, y: x < y),
        ):
            if limit in limits and not holds(number, limits[limit]):
                raise RunError(f"{key} is {show(value)}; it must be {words} {limits[limit]}")


@dataclass(frozen=True)
class _Reference:
    """A setting with `${...}`, to be read when all others are."""

    written: values.Raw
    where: str


def _made(layers: Iterable[Mapping[str, Any]]) -> Config:
    """The defaults with each layer's settings, of which a later one wins; checked."""
    config, given = Config(), {name: value for layer in layers for name, value in layer.items()}
    references = {name: value for name, value in given.items() if isinstance(value, _Reference)}
    for name in given.keys() - references.keys():
        _set(config, name, given[name])
    if references:
        tree = asdict(config)
        for name, reference in references.items():
            *sections, last = name.split(".")
            functools.reduce(dict.__getitem__, sections, tree)[last] = values.words(reference.written)
        for name, reference in references.items():
            with _expecting(name, reference.where, values.words(reference.written)):
                value = values.resolved(tree, name, _types()[name][0])
                _set(config, name, _value(name, value))
    check(config)
    return config


def _set(config: Config, name: str, value: Any) -> None:
    *sections, last = name.split(".")
    setattr(functools.reduce(getattr, sections, config), last, value)


def _override(given: str) -> dict[str, Any]:
    key, equals, value = given.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RunError(f"{masked(given)!r} is not an override; write key=value, for example train.epochs=2")
    where = "command line"
    node = values.argument(value, _types()[key][0] if key in _types() else "", repr(masked(given)))
    return {
        name: _read(name, part, where, shown=value.strip() if part is node else part)
        for name, part in _named(key, node, where, set())
    }


def _layer(text: str, where: str, section: str = "", literal: bool = False) -> dict[str, Any]:
    """The settings in a YAML document, whose keys may be nested or dotted. literal: see `stored`."""
    root = values.compose(text, where)
    if root is None:  # nothing but comments
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise RunError(f"{where}: a configuration is a mapping of keys to values")
    named = _named(section, root, where, set(), literal)
    return {name: _read(name, node, where, literal) for name, node in named}


def _named(
    name: str, node: yaml.Node, where: str, seen: set[str], stored: bool = False
) -> Iterator[tuple[str, yaml.Node]]:
    """The settings below the key `name`, each with what stands there."""
    types = _types()
    if name in RETIRED:
        if not stored:
            raise RunError(f"{where}: {name} is no setting any more; {RETIRED[name]}")
        return
    section = not name or any(k.startswith(name + ".") for k in types)
    if not section and name not in types:
        raise RunError(f"{where}: {show(name)} is not a setting; the nearest is {_nearest(name, [*types])}")
    if name in seen:
        line = f", line {node.start_mark.line + 1}" if node.start_mark else ""
        raise RunError(f"{where}{line}: {name} is set twice; keep one")
    seen.add(name)
    if not section:
        yield name, node
    elif isinstance(node, yaml.MappingNode):
        values.check_tag(node, where)
        for key, value in node.value:
            values.check_tag(key, where)
            inner = show(key)
            yield from _named(f"{name}.{inner}" if name else inner, value, where, seen, stored)
    elif not values.is_null(node):  # an empty section is one without settings
        raise RunError(f"{where}: {name} is a section; set one of its keys, like {_first(types, name)}")


def _read(name: str, node: yaml.Node, where: str, literal: bool = False, shown: Any = None) -> Any:
    with _expecting(name, where, node if shown is None else shown):
        written = values.raw(node, where)
        if not literal and values.refers(written):
            return _Reference(written, where)
        return _value(name, values.unescaped(written) if literal else written)


def _value(name: str, written: values.Raw) -> Any:
    kind, limits = _types()[name]
    return values.as_type(written, kind, limits.get("form"))


@contextmanager
def _expecting(name: str, where: str, written: Any) -> Iterator[None]:
    """A ValueError means that what is written for a setting is of another type."""
    try:
        yield
    except ValueError as e:
        kind, limits = _types()[name]
        raise RunError(f"{where}: {name} is {show(written)}; expected {_expected(kind, limits.get('form'))}") from e


@functools.cache
def _types() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Every setting's key, its type as written above, and its limits."""

    def walk(section: Any, prefix: str) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
        for f in fields(section):
            value = getattr(section, f.name)
            if is_dataclass(value):
                yield from walk(value, f"{prefix}{f.name}.")
            else:
                yield prefix + f.name, (str(f.type), f.metadata)

    return dict(walk(Config(), ""))


def _nearest(name: str, keys: list[str]) -> str:
    """The valid key written most like `name`; its last part counts most, also as a word of it or by its initials."""
    last = name.rpartition(".")[2]
    initials = "".join(word[:1] for word in last.split("_")) if "_" in last else last

    def likeness(key: str) -> float:
        end = key.rpartition(".")[2]
        part = max(_ratio(last, end), _ratio(initials, end), 0.9 * (last in end.split("_")))
        return part + _ratio(name, key)

    return max(keys, key=likeness)


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _first(keys: Mapping[str, Any], section: str) -> str:
    return next(k for k in keys if k.startswith(section + "."))


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "list[int]": "a list of whole numbers",
    "list[float]": "a list of numbers",
    "list[str]": "a list of texts",
    "tuple[float, float]": "a list of two numbers",
    "None": "null",
}


def _expected(kind: str, form: values.Form | None) -> str:
    kinds = kind.split(" | ")
    return either([form.words if form and k != "None" else _WORDS[k] for k in kinds])
