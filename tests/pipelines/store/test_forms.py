from pathlib import Path

from pipelines.store.forms import COPIES, FFCV, FORMS, SHARDS


def test_of_shards_nothing_is_missing_beside_them_and_of_a_copy_its_file(tmp_path: Path) -> None:
    split = tmp_path / "train"
    split.mkdir()
    assert SHARDS.missing(split) is None
    assert FFCV.missing(split) == split / "train.beton"
    (split / "train.beton").touch()
    assert FFCV.missing(split) is None


def test_the_names_are_those_of_the_setting() -> None:
    assert list(FORMS) == ["webdataset", "ffcv"] and COPIES == ["ffcv"]
