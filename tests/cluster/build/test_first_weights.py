"""The weights that a run begins with: what may differ between the two models, what may not, and the report."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from firing import few_digits, save
from torch import Tensor

import tdformer
from cluster.build.first_weights import Begun, begin
from cluster.build.model import build_model
from cluster.build.setup import Setup
from cluster.config import Config, load, to_yaml
from cluster.config.shape import Shape
from cluster.errors import RunError
from cluster.jobs.launch import launch
from cluster.jobs.processes import check_inputs
from cluster.results.export import export
from cluster.run import checkpoint
from cluster.run.folder import RunFolder
from cluster.run.weights import located, read, settle
from pipelines.loader import eval_loader, time_first, to_device
from tdformer.errors import ModelError

NUMBERS = [str(i) for i in range(10)]
WORDS = [f"class {i}" for i in range(10)]
TEXT = """\
model: {name: quickstart, time_steps: 2, feedback: all}
data: {dataset: digits}
train: {global_batch: 40, threads: 1}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits; digits of other numbers, of fewer classes, and with other names."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "recipe.yaml").write_text(TEXT)
    few_digits(folder / "digits")
    few_digits(folder / "turned", [*reversed(NUMBERS)], [*reversed(range(10))])
    few_digits(folder / "halves", ["7", "3"], [0, 1] * 5)
    few_digits(folder / "words", WORDS)
    return folder


def configured(place: Path, *words: str) -> Config:
    given = ["data.root=digits", *words]
    roots = [f"data.root={place}/{w.removeprefix('data.root=')}" for w in given if w.startswith("data.root=")]
    rest = [w for w in given if not w.startswith("data.root=")]
    return load(place / "recipe.yaml", [f"runs_dir={place}/runs", roots[-1], *rest])


@pytest.fixture(scope="module")
def source(place: Path) -> Callable[..., Path]:
    """A run with the checkpoint of a model that fires, by its settings."""
    made: dict[tuple[str, ...], Path] = {}

    def get(*words: str) -> Path:
        if words not in made:
            config = configured(place, f"name=source-{len(made)}", *words)
            data = Setup.to_train(config, 1).samples
            made[words] = save(Path(config.run_path), config, data, classes=data.class_names)
        return made[words]

    return get


def begun(place: Path, *words: str) -> tuple[tdformer.TDFormer, Begun, dict[str, Tensor]]:
    """A model that has begun with weights, the report, and how it was made."""
    setup = Setup.to_train(configured(place, *words), 1)
    model = setup.model()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    return model, begin(model, setup.config, setup.samples), before


def logits(model: tdformer.TDFormer, config: Config) -> Tensor:
    setup = Setup.to_train(config, 1)
    data, view = setup.samples, setup.view
    batch = next(iter(eval_loader(data, rank=0, world=1, batch_size=16, workers=0, view=view)))
    images = to_device(batch.images, data.mean, data.std, torch.device("cpu"))
    with torch.no_grad():
        return model.eval()(time_first(images))


def weights_of(run: Path) -> dict[str, Tensor]:
    return read(located(run)).weights


def test_where_nothing_differs_the_function_is_the_source_s(place: Path, source: Callable[..., Path]) -> None:
    """From the run, from one step of it, and from its exports."""
    run = source("model.segments=2")
    kept = weights_of(run)
    config = configured(place, "model.segments=2")
    reference = build_model(config, Setup.to_train(config, 1).samples)
    reference.load_state_dict(kept)
    expected = logits(reference, config)
    assert (expected - expected.mean(0)).abs().max() > 0.1  # it tells pictures apart
    export(run, place / "m.safetensors"), export(f"{run}@7", place / "m.pt")
    tdformer.save_pretrained(reference, place / "bare.safetensors")
    digests = set()
    for weights in (
        str(run),
        f"{run}@7",
        f"{run}/checkpoints/step-00000007",
        "m.safetensors",
        "m.pt",
        "bare.safetensors",
    ):
        model, found, before = begun(place, f"model.weights={place / weights}", "model.segments=2", "seed=5")
        assert not torch.equal(before["head.weight"], kept["head.weight"])
        assert torch.equal(logits(model, config), expected), weights
        assert {*found.report.loaded} == {*kept} and not found.report.adapted
        assert not found.report.fresh and not found.report.skipped and found.options == {}
        assert found.step == (None if "bare" in weights else 7)
        digests.add(found.sha256)
    assert len(digests) == 1  # the same weights, wherever they lie


def test_a_new_head_is_the_same_whatever_was_made_before(place: Path, source: Callable[..., Path]) -> None:
    """Ranks differ in what their process made, such as the outline that a policy is chosen by."""
    words = (f"model.weights={source()}", "model.weights_head=new")
    heads = []
    for draws in (0, 7):
        setup = Setup.to_train(configured(place, *words), 1)
        model = setup.model()
        torch.rand(draws)
        begin(model, setup.config, setup.samples)
        heads.append(model.head.weight.detach().clone())
    assert torch.equal(*heads) and 1e-5 < float(heads[0].std()) < 4e-5


SIZE = ("data.size=16",)
MIX = "backbone.stages.2.0.attention.control.mix.weight"
CORE = "backbone.stages.2.0.attention.control.processing.w"
CASES: list[tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]] = [
    (("model.segments=2",), ("model.segments=2", *SIZE), {}),
    (("model.segments=2",), ("model.segments=2", "model.time_steps=4"), {"options": {"time_steps": [2, 4]}}),
    (
        ("model.feedback=none",),
        ("model.feedback=none", "model.segments=2"),
        {"adapted": "statistics of 1 segment for 2"},
    ),
    (("model.segments=2",), ("model.time_steps=4", "model.segments=4"), {"adapted": "statistics of 2 segments for 4"}),
    (("model.segments=2",), ("model.segments=1",), {"adapted": "statistics of 2 segments for 1"}),
    (
        ("model.segments=2", "model.feedback=none"),
        ("model.segments=2",),
        {"fresh": {MIX: "feedback: the mixer starts at zero", CORE: "feedback"}},
    ),
    (
        ("model.segments=2",),
        ("model.segments=2", "model.feedback=none"),
        {"skipped": dict.fromkeys((MIX, CORE), "feedback that this model does not have")},
    ),
    (
        ("model.segments=2",),
        ("model.segments=2", "model.pm=3"),
        {
            "skipped": dict.fromkeys((MIX, CORE), "feedback with pm=1, the model has pm=3"),
            "fresh": {MIX: "feedback: the mixer starts at zero", CORE: "feedback"},
            "options": {"pm": [1, 3]},
        },
    ),
    (
        (),
        ("model.segments=2",),
        {
            "skipped": dict.fromkeys((MIX, CORE), "feedback that was never used: it had one segment"),
            "fresh": {MIX: "feedback: the mixer starts at zero", CORE: "feedback"},
        },
    ),
    (
        ("model.feedback=none",),
        ("model.feedback=none", "model.neuron=plif"),
        {"fresh": "learnable time constant, the file's neurons have none"},
    ),
    (("model.tau=1.5",), (), {"options": {"tau": [1.5, 2.0]}}),
    ((), ("data.root=turned",), {"head": "10 classes by name, of 10"}),
    ((), ("data.root=halves",), {"head": "2 classes by name, of 10"}),
    ((), ("model.num_classes=12",), {"head": "10 classes by name, of 10"}),
    ((), ("data.root=words",), {"new": "class 'class 0' is none of those there"}),
    (("data.root=halves",), (), {"new": "class '0' is none of those there"}),
    ((), ("model.weights_head=new",), {"new": "model.weights_head is new"}),
]


@pytest.mark.parametrize(
    ("there", "here", "expected"), CASES, ids=lambda x: " ".join(x) or "-" if type(x) is tuple else ""
)
def test_what_may_differ(
    place: Path, source: Callable[..., Path], there: tuple[str, ...], here: tuple[str, ...], expected: dict[str, Any]
) -> None:
    run = source(*there)
    kept = weights_of(run)
    model, found, before = begun(place, *here, f"model.weights={run}")
    own, report = model.state_dict(), found.report
    # Every tensor is told of, once, and is what is said of it.
    assert {*report.loaded, *report.fresh} == {*own} and not {*report.loaded} & {*report.fresh}
    assert {*report.loaded, *report.skipped} == {*kept} and {*report.adapted} <= {*report.loaded}
    assert all(torch.equal(own[name], kept[name]) for name in {*report.loaded} - {*report.adapted})
    head = {name for name in own if name.startswith("head.")}
    for name in report.adapted.keys() - head:
        for n, row in enumerate(own[name]):
            assert torch.equal(row, kept[name][min(n, len(kept[name]) - 1)]), name
    for name in report.fresh.keys() - head:
        assert torch.equal(own[name], torch.zeros_like(own[name]) if name.endswith("mix.weight") else before[name])
    for key, value in expected.items():
        if key == "options":
            assert {k: found.options[k] for k in value} == value
        elif key == "head":
            classes = Setup.to_train(configured(place, *here), 1).samples.class_names
            assert {name: report.adapted[name] for name in head} == dict.fromkeys(head, value)
            for i, name in enumerate(classes):
                assert torch.equal(own["head.weight"][i], kept["head.weight"][NUMBERS.index(name)])
                assert torch.equal(own["head.bias"][i], kept["head.bias"][NUMBERS.index(name)])
            assert own["head.weight"][len(classes) :].abs().max() < 1e-4 if len(own["head.bias"]) > 10 else True
            assert not own["head.bias"][len(classes) :].any()
        elif key == "new":
            assert {name: report.fresh[name] for name in head} == dict.fromkeys(head, value)
            assert 1.5e-5 < float(own["head.weight"].std()) < 2.5e-5 and not own["head.bias"].any()
        elif isinstance(value, str):
            assert {*getattr(report, key).values()} == {value}
        else:
            assert value.items() <= getattr(report, key).items()
    if not {"head", "new"} & expected.keys():
        assert head <= {*report.loaded} - {*report.adapted}
    assert str(found).startswith(f"begins with {run}@7 (SHA-256 {found.sha256[:12]}): ")
    assert "\n" not in str(found) and json.loads(json.dumps(found.row())) == found.row()
    assert torch.equal(begun(place, *here, f"model.weights={run}")[0].head.weight, model.head.weight)  # the same draws


def test_feedback_begins_with_the_backbone_s_function(place: Path, source: Callable[..., Path]) -> None:
    words = ("model.segments=2", f"model.weights={source('model.feedback=none')}")
    plain, fed = (begun(place, *words, f"model.feedback={feedback}")[0] for feedback in ("none", "all"))
    config = configured(place, "model.segments=2")
    expected = logits(plain, config)
    assert (expected - expected.mean(0)).abs().max() > 0.1
    assert torch.equal(logits(fed, config), expected)


def test_classes_that_nobody_named_are_taken_by_number(place: Path, source: Callable[..., Path]) -> None:
    kept = weights_of(source())
    torch.save({"model": kept}, place / "bare.pth")
    model, found, _ = begun(place, "data.root=words", f"model.weights={place}/bare.pth")
    assert torch.equal(model.head.weight, kept["head.weight"]) and not found.report.fresh
    _, found, _ = begun(place, "data.root=halves", f"model.weights={place}/bare.pth")
    assert {*found.report.fresh} == {"head.weight", "head.bias"}
    assert found.report.fresh["head.bias"] == "head for 10 classes, the model has 2"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo no",)


def test_what_does_not_fit_is_one_line_before_anything_is_made(
    place: Path, source: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run = source()
    kept = weights_of(run)
    files = {
        "evil.pth": {"model": kept, "args": Evil()},
        "empty.pth": {},
        "part.pth": {k: v for k, v in kept.items() if not k.startswith("backbone.embeds.1")},
        "more.pth": kept | {"backbone.more": torch.zeros(1)},
        "names.pth": {"layer": torch.zeros(1)},
        "shape.pth": kept | {"head.weight": torch.zeros(10, 3)},
        "width.pth": kept | {"backbone.embeds.0.units.0.current.norm.running_mean": torch.zeros(2, 5)},
        "none.pth": kept | {"backbone.embeds.0.units.0.current.norm.running_mean": torch.zeros(0, 12)},
    }
    for name, content in files.items():
        torch.save(content, place / name)
    (place / "text.pth").write_text("nothing")
    (place / "program.pt2").write_bytes(b"PK")
    export(run, place / "cut.pt")
    (place / "cut.pt").write_bytes((place / "cut.pt").read_bytes()[:-9])
    plif = source("model.neuron=plif")
    for weights, words, message in (
        ("evil.pth", (), "would run"),
        ("empty.pth", (), "it is empty"),
        ("part.pth", (), "nothing for the model's backbone.embeds.1"),
        ("more.pth", (), "backbone.more has no place in quickstart"),
        ("names.pth", (), "'layer' are of no known backbone"),
        ("shape.pth", (), "head.weight is [10, 3] and the model's head.weight [10, 96]"),
        ("width.pth", (), "is [2, 5] and the model's"),
        ("none.pth", (), "is [0, 12] and the model's"),
        ("text.pth", (), "not a readable checkpoint"),
        ("program.pt2", (), "is a program, whose weights are folded into it"),
        ("cut.pt", (), "are not what was exported (SHA-256)"),
        ("gone.pth", (), "gone.pth: no such run folder, checkpoint or file"),
        (str(place), (), "is neither a run folder nor a checkpoint"),
        (f"{run}@8", (), "has no checkpoint of step 8; it has those of step 7"),
        (f"{run}@", (), "has no checkpoint of step empty; it has those of step 7"),
        (f"{run}@best", (), "has no checkpoint of step best"),
        (str(plif), (), "neuron.w is a learned time constant; create the model with neuron=plif"),
        (str(run), ("model.name=hst_4_384",), "choose the model it is of"),
        (str(run), (f"model.weights_sha256={'0' * 64}",), f"begins with {'0' * 64}"),
    ):
        config = configured(place, "name=never", f"model.weights={place / weights}", *words)
        with pytest.raises((RunError, ModelError)) as error:
            check_inputs(config, 1)
        assert message in str(error.value) and "\n" not in str(error.value), str(error.value)
        assert not config.run_path.exists()
    for words, message in (
        ((f"model.weights_sha256={'0' * 64}",), "model.weights is null"),
        (("model.weights=x", "model.weights_sha256=abc"), "it is 64 digits"),
        (("model.weights=x", "model.weights_head=old"), "choose by_name or new"),
    ):
        with pytest.raises(RunError, match=message):
            configured(place, *words)
    assert capfd.readouterr().out == ""  # nothing of a pickle was run


def test_a_launch_takes_the_weights_that_a_job_finds(
    place: Path, source: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a job starts is another folder; what it begins with is decided when it is launched."""
    monkeypatch.chdir(place)
    run = source().relative_to(place)
    config = configured(place, "name=launched", f"model.weights={run}")
    assert launch(config, Shape(1, 1, 0), "local", dry_run=True) == 0
    assert config.model.weights == f"{place / run}@7" and config.model.weights_sha256 == read(located(run)).digest
    for weights, words in (("gone.pth", ()), (run, ("model.name=hst_4_384",))):
        config = configured(place, "name=launched", f"model.weights={weights}", *words)
        with pytest.raises((RunError, ModelError), match="no such run folder|choose the model it is of"):
            launch(config, Shape(1, 1, 0), "local")
        assert not config.run_path.exists()


def test_a_run_that_was_launched_begins_with_what_was_noted_then(
    place: Path, source: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its source has saved again before its job has started, and the same command is given again."""
    run = Path(shutil.copytree(source(), tmp_path / "source"))
    words = (f"runs_dir={tmp_path}", "name=queued", f"model.weights={run}", f"data.root={place}/digits")

    def launched() -> Config:
        config = load(place / "recipe.yaml", words)
        assert launch(config, Shape(1, 1, 0), "local", dry_run=True) == 0
        return config

    first = launched()
    assert first.model.weights == f"{run}@7"
    (tmp_path / "queued" / "checkpoints").mkdir(parents=True)
    (tmp_path / "queued" / "launch.yaml").write_text(to_yaml(first))
    parts, state = checkpoint.load(run / "checkpoints" / "step-00000007")
    parts["model"]["head.bias"] += 1
    checkpoint.save(run / "checkpoints", 9, parts, state, keep=2)
    assert located(run).path.name == "step-00000009" and launched() == first
    shutil.rmtree(run / "checkpoints" / "step-00000007")  # as checkpoint.keep does: what is there now
    assert launched().model.weights == f"{run}@9"
    with pytest.raises(RunError, match=f"{run} has no checkpoint of step 7; it has those of step 9"):
        settle(RunFolder(first.run_path), first)  # as the job does that was queued


def test_what_a_run_begins_with_is_settled_once(place: Path, source: Callable[..., Path], tmp_path: Path) -> None:
    """By the digest of the weights, wherever they lie; a run that has saved does without them."""
    first, other = source("model.segments=2"), source("model.tau=1.5")
    digest = read(located(first)).digest

    def asked(weights: str | Path, *words: str) -> Config:
        config = configured(place, f"runs_dir={tmp_path}", "name=a@3", f"model.weights={weights}", *words)
        settle(RunFolder(config.run_path), config)
        return config

    config = asked(first)
    assert (config.model.weights, config.model.weights_sha256) == (f"{first}@7", digest)
    assert asked(first, f"model.weights_sha256={digest}") == config
    with pytest.raises(RunError, match="give the weights that are meant"):
        asked(first, f"model.weights_sha256={'0' * 64}")
    folder = RunFolder(config.run_path)
    folder.open(config)
    moved = tmp_path / "m@5.pth"
    torch.save(weights_of(first), moved)
    folder.check(asked(moved), running=True)
    with pytest.raises(RunError, match="model.weights_sha256"):
        folder.check(asked(other), running=True)
    # It has saved, and what it began with is gone.
    gone = tmp_path / "gone"
    first.rename(gone)
    with pytest.raises(RunError, match="no such run folder"):
        asked(first)
    (folder.checkpoints / "step-00000001").mkdir()
    for weights in (first, f"{first}@7", f"{first}/checkpoints/step-00000007"):
        folder.check(asked(weights))
    folder.check(asked(gone))
    with pytest.raises(RunError, match="no such run folder"):  # another one
        asked(f"{first}@8")
    gone.rename(first)
    with pytest.raises(RunError, match=r"model.weights_sha256 \(.*, now null\)"):
        folder.check(configured(place, f"runs_dir={tmp_path}", "name=a@3"))
    # A name with @ is meant as it is where it is there; behind another @ is the step.
    assert located(moved).path == moved and str(located(moved)) == str(moved)
    with pytest.raises(RunError, match="a@3 has no checkpoint of step 4; it has those of step 1"):
        located(f"{folder.path}@4")
    assert located(f"{folder.path}@1").run == folder.path
