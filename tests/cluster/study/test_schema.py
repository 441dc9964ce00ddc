"""A study's file: what is wrong with one is said in a line; what is right comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.build.shards import write_shards
from cluster.config import flat, to_yaml
from cluster.errors import RunError
from cluster.study import grid
from cluster.study.schema import find, names, overrides, read

GRID = "name: s\nconfig: digits\n"


def study(folder: Path, text: str) -> Path:
    (folder / "s.yaml").write_text(text)
    return folder / "s.yaml"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "a study is a mapping of keys to values; it has at least name, config and grid"),
        ("name: s\ngrid: {seed: [1]}", "config is missing"),
        ("config: digits\ngrid: {seed: [1]}", "name is empty; it becomes a folder in runs_dir"),
        (GRID, "nothing varies; give a grid, cases, seeds or repeats"),
        (GRID + "gird: {seed: [1]}", "gird is no key of a study; the nearest is grid"),
        (GRID + "grid: {}", "grid is {}; give each axis its values"),
        (GRID + "grid: {seed: []}", "grid has seed without values; list some, or leave it out"),
        (GRID + "grid: {seed: 1}", "grid has seed: 1; give a list of values, such as .1."),
        (GRID + "grid: {seed: [1], seed: [2]}", "grid has seed twice; keep one"),
        (GRID + "grid: {model.time_step: [1]}", "model.time_step is not a setting; the nearest is model.time_steps"),
        (GRID + "grid: {node: [1]}", "node is no axis, neither a setting nor nodes, .* or share; the nearest is nodes"),
        (GRID + "grid: {train.lr: [fast]}", "train.lr is fast; expected a number"),
        (GRID + "grid: {nodes: [0]}", "nodes is 0; it must be at least 1"),
        (GRID + "grid: {processes: [two]}", "processes is two; expected a whole number"),
        (GRID + "grid: {name: [a, b]}", "name cannot be an axis"),
        (GRID + "cases: []", r"cases is \[\]; list mappings of settings"),
        (GRID + "cases: [1]", "a case is 1; give settings"),
        (GRID + "cases: [{model.cm: x}]", "model.cm is x; expected a whole number"),
        (GRID + "grid: {model.cm: [1]}\ncases: [{model.cm: 2}]", "model.cm is varied by .* and by .*; keep one"),
        (GRID + "seeds: [1]\ngrid: {seed: [1]}", "seed is varied by grid and by seeds; keep one"),
        (GRID + "grid: {share: [0.5], data.share: [1]}", "data.share is varied by share and by data.share; keep one"),
        (GRID + "seeds: [1]\nbudget_gpu_hours: 0", "budget_gpu_hours is 0.0; it must be above 0"),
        (GRID + "seeds: [1]\nat_once: all", "at_once is all; expected a whole number"),
        (GRID + "seeds: [1]\nwhere: slrum", "where is slrum; choose auto, slurm or local; did you mean slurm?"),
        (GRID + "seeds: [1]\nconstraints: 3", "constraints is a section; set one of its keys"),
        (GRID + "seeds: [1]\nconstraints: {image: 3}", "constraints.image is no key .* nearest is constraints.images"),
        (GRID + "seeds: [1]\nconstraints: {images: 3, flop: 1e9}", "both decide the epochs; keep one"),
        (GRID + "grid: {train.epochs: [1]}\nconstraints: {images: 9}", "train.epochs is an axis, and the constraints"),
        (GRID + "seeds: [1]\nstop: {after_step: 3}", "stop.after_step is of stop.loss_above; set that too"),
        (GRID + "seeds: [1]\nfailures: {mtbf_hours: 0}", "failures.mtbf_hours is 0.0; it must be above 0"),
        (GRID + "seeds: [1]\nfailures: {kills: one}", "failures is without failures.mtbf_hours; set that too"),
        (GRID + "seeds: [1]\nfailures: {mtbf_hours: 1}", "failures need budget_gpu_hours: a cell that is killed"),
        (GRID + "seeds: [1]\nseeds: [2]", "seeds is set twice; keep one"),
        (GRID + "settings: {train.lr: x}\nseeds: [1]", "settings: train.lr is x; expected a number"),
        (GRID + "seeds: !!python/object:os.system [1]", "YAML tag"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(RunError, match=line) as error:
        read(study(tmp_path, text))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("grid: {model.segments: [1, 3]}", "cell model.segments=3: model.segments=3 does not divide"),
        ("grid: {processes: [3]}", "cell processes=3: train.global_batch=64 is not divisible by the 3 processes"),
        ("grid: {train.lr: [0.001, 1.0e-3]}", "are the same run; leave one of them out"),
    ],
)
def test_cells_that_cannot_work_are_named(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(RunError, match=line):
        grid.cells(read(study(tmp_path, GRID + text)), "r")


def test_a_study_that_is_not_there_names_ours(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such configuration file; studies: .*weak_scaling"):
        read(find(tmp_path / "none.yaml"))


FULL = """\
name: full
config: digits
settings: {train: {lr: 0.01}, data.size: null, log.wandb: off}
seeds: [0, 7]
repeats: 2
at_once: 3
budget_gpu_hours: 0.5
constraints: {global_batch: per_process}
stop: {loss_above: 3.5, after_step: 10}
failures: {mtbf_hours: 0.5, kills: one}
grid:
  model.feedback: [none, all, [0, 1]]
  processes: [1, 2]
  model.v_reset: [0.5, soft]
cases:
- {case: a, model.cm: 1, train.alphas: [0.25, 0.75]}
- {case: "b: c", model.cm: 2, train.alphas: null}
report: {figures: [{kind: lines}]}
"""


def test_what_is_kept_reads_as_the_same(tmp_path: Path) -> None:
    one = read(study(tmp_path, FULL), ["train.lr=0.02"])
    assert one.base.train.lr == 0.02 and one.base.log.wandb == "off" and one.report == {"figures": [{"kind": "lines"}]}
    (tmp_path / "base.yaml").write_text(to_yaml(one.base))
    (tmp_path / "kept.yaml").write_text(one.to_yaml("base.yaml"))
    other = read(tmp_path / "kept.yaml")
    assert (other.axes, other.base, other.report) == (one.axes, one.base, one.report)
    assert flat(other.options) == flat(one.options) | {"config": "base.yaml"}
    cells = [grid.cells(each, "r") for each in (one, other)]
    assert len(cells[0]) == 3 * 2 * 2 * 2 * 2 * 2
    assert [cell.digest for cell in cells[0]] == [cell.digest for cell in cells[1]]
    assert cells[0][0].name.startswith("seed=0,feedback=none,processes=1,v_reset=0.5,case=a,repeat=0-")
    assert {cell.axes["case"] for cell in cells[0]} == {"a", "b: c"}


def test_a_name_on_the_command_line_is_the_studys(tmp_path: Path) -> None:
    found = read(study(tmp_path, GRID + "seeds: [1]"), ["name=other", f"runs_dir={tmp_path}"])
    assert found.path == tmp_path / "other"


def test_shape_and_labels_are_no_settings() -> None:
    assert overrides({"nodes": "2", "case": "a", "share": "0.5", "seed": "3"}) == ["data.share=0.5", "seed=3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_shards("digits", folder)
    return folder


@pytest.mark.parametrize("name", names())
def test_the_studies_that_come_with_us_have_cells(name: str, shards: Path) -> None:
    """On digits, which everybody has."""
    found = read(find(name), ["data.dataset=digits", f"data.root={shards}", "data.share=1.0"])
    assert found.options.name == name and found.report is not None
    cells = grid.cells(found, "r")
    assert 1 < len(cells) == len(list(grid.points_of(found))) < 100
    assert f"tdformer scale run {name}" in find(name).read_text().splitlines()[0]


def test_a_study_goes_elsewhere_than_its_file_says(tmp_path: Path) -> None:
    asked = read(study(tmp_path, GRID + "seeds: [1]\nwhere: slurm"))
    assert asked.at("local").options.where == "local" and asked.options.where == "slurm"
    with pytest.raises(RunError, match="--where is here; choose auto, slurm or local"):
        asked.at("here")
