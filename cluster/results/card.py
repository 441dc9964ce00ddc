"""The model card of an exported file: what is known of its weights, as facts and as a page to read."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tdformer import TDFormer
from tdformer.backbones.size import OPTIONS
from tdformer.digest import Described, Input
from tdformer.options import Options

from ..build.data import as_samples
from ..config import Config, show
from ..errors import RunError
from ..run import checkpoint
from ..run.folder import RunFolder
from ..run.weights import Trained

LICENCE = (
    "The code of tdformer is under Apache-2.0. What the weights may be used for is for whoever trained them to say, "
    "within the terms of the data that they were trained on."
)
USES = {
    ".safetensors": 'In Python: `tdformer.from_pretrained("{name}")`, whose `card` has what stands here.',
    ".pt": 'In Python: `torch.load("{name}", weights_only=True)`, a state dict.',
    ".pt2": "A `torch.export` program for {batch} images at once, which runs without tdformer. `torch.export.load` "
    "runs what somebody hides in one; `tdformer predict` and `tdformer eval` do not.",
    ".onnx": "An ONNX graph, opset {opset}, for {batch} images at once: `images` in, `logits` out, in fp32.",
}


def facts(model: TDFormer, trained: Trained, config: Config) -> Described:
    """Of weights: `classes`; `input`, how their data are seen, where that was kept; `parameters`, `dataset`, `run`,
    `step`, `averaged`; `accuracy`, what training measured of them on the test set; `config_sha256`, of the run's
    configuration file; `code`, the revisions that the run was started with; `licence`.

    The same run gives the same facts, wherever it lies. Of an exported file they are those that it came with.
    """
    about, source = trained.about, trained.source
    seen = about.get("input")
    if seen is not None:
        as_samples([], seen, trained.classes or (), source.path)  # a stranger's may be anything
        view: Input = {"frames": config.data.frames} if trained.frames else {"crop_ratio": config.data.crop_ratio}
        seen = {**seen, "size": config.data.size, **view}
    known: Described = {
        "classes": trained.classes,
        "input": seen,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dataset": about.get("dataset", config.data.dataset),
        "run": about.get("run", config.name),
        "step": trained.step,
    }
    if source.run is None or trained.settings is None:
        known["averaged"], known["accuracy"] = about.get("averaged"), about.get("accuracy")
        known["config_sha256"], known["code"] = about.get("config_sha256"), about.get("code")
    else:
        run = RunFolder(source.run)
        known |= {
            "averaged": (source.path / "ema.safetensors").is_file(),
            "accuracy": _accuracy(run, checkpoint.step_of(source.path)),
            "config_sha256": hashlib.sha256(trained.settings.read_bytes()).hexdigest(),
            "code": _code(run),
        }
    return {**known, "version": _version(), "licence": LICENCE}


def page(name: str, about: Described) -> str:
    """The card as Markdown. name: of the exported file; about: the facts, `model` with its options, and `batch`."""
    model = about["model"]
    seen: Input = about["input"] or {}
    channels, (height, width) = model["in_channels"], model["image_size"]
    blocks = ", ".join(map(str, model["feedback"]))
    given = f"{channels} x {height} x {width}"
    which = {True: "; the average of the weights", False: "; the weights themselves", None: ""}[about["averaged"]]
    rows = {
        "Model": f"`{model['name']}`, {about['parameters']:,} parameters",
        "Size": _of_size(model),
        "Time": f"{model['time_steps']} steps in {model['segments']} segments, "
        + (f"feedback to block {blocks}" if blocks else "no feedback"),
        "Trained on": _data(about["dataset"], about["classes"]),
        "Input": f"{seen.get('kind', 'pictures')}, {given}",
        "Mean, std": f"{_list(seen['mean'])}; {_list(seen['std'])}, of values from 0 to 1" if seen else "not kept",
        "Seen as": _view(seen) if seen else "not kept",
        "Checkpoint": f"step {about['step']} of run `{about['run']}`{which}"
        if about["run"]
        else f"`{Path(about['checkpoint']).name}`, of whose training nothing is known",
        "Test accuracy": _percent(about["accuracy"]),
        "Configuration": "not kept" if about["config_sha256"] is None else f"SHA-256 `{about['config_sha256']}`",
        "Code": "not kept"
        if about["code"] is None
        else ", ".join(f"commit `{c}`" for c in about["code"]) or "not in git",
        "Written by": f"tdformer {about['version']}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    titles = {name: f" ({title})" for name, title in seen.get("titles", {}).items()}
    named = [f"{json.dumps(name)}{titles.get(name, '')}" for name in about["classes"] or ()]
    classes = "\n".join(f"    {i}: {name}" for i, name in enumerate(named))
    use = USES[Path(name).suffix].format(name=name, batch=about.get("batch"), opset=about.get("opset"))
    return (
        f"# {name}\n\nA spiking vision transformer with top-down feedback through time (TDFormer, arXiv 2505.15840). "
        f"`tdformer export` wrote this page.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use\n`tdformer predict {name} IMAGE...` sees pictures as the test set was seen. {use}\n\n"
        f"## Classes\nIn the order of the outputs:\n\n{classes or '    not kept'}\n\n## Licence\n{about['licence']}\n"
    )


def _data(dataset: str | None, classes: list[str] | None) -> str:
    if dataset is None:
        return "not kept"
    return f"`{dataset}`, {len(classes)} classes" if classes else dataset


def _of_size(model: Options) -> str:
    said = [(option.replace("_", " "), model[option]) for option in OPTIONS if model[option] is not None]
    return ", ".join(f"{word} {show(value)}" for word, value in said) or "that of its name"


def _accuracy(run: RunFolder, step: int) -> float | None:
    """On the test set, as metrics.jsonl has it for this step."""
    with suppress(RunError):
        for row in run.metrics.whole("step")[0]:
            if row["step"] == step and isinstance(row.get("eval_accuracy"), float):
                return float(row["eval_accuracy"])
    return None


def _code(run: RunFolder) -> list[str]:
    """Each commit that a start of the run was of, `+` where files differed from it."""
    with suppress(RunError):
        starts = [row for row in run.starts.whole()[0] if isinstance(row.get("commit"), str)]
        return list(dict.fromkeys(f"{row['commit']}{'+' if row.get('dirty') else ''}" for row in starts))
    return []


def _version() -> str:
    try:
        return version("tdformer")
    except PackageNotFoundError:
        return "of a source tree"


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _view(seen: Input) -> str:
    size = seen["size"]
    if "frames" in seen:
        return f"frames by {seen['frames']}" + (f", brought to {size} x {size}" if size else "")
    if size is None:
        return "as they are"
    return (
        f"the centre: the shorter side brought to {size} / {seen['crop_ratio']:g} pixels, {size} x {size} of it cut out"
    )


def _percent(accuracy: float | None) -> str:
    return "not measured at this step" if accuracy is None else f"{accuracy:.2%}, as training measured it"
