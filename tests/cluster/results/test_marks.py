import json
from pathlib import Path

import pytest

from cluster.results.marks import SUFFIXES, is_ours, marked, others

PAGES = {
    ".html": "<html>\n<head>\n<title>Ours</title>\n</head>\n</html>\n",
    ".md": "# Ours\n\nwords\n",
    ".json": '{"table": [1, 2]}\n',
}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_page_is_known_again_and_not_after_a_change(suffix: str, tmp_path: Path) -> None:
    path, text = tmp_path / f"page{suffix}", marked(suffix, PAGES[suffix], [b"beside"])
    path.write_text(text)
    assert is_ours(path)
    for theirs in (PAGES[suffix], text + "\n", text.replace("table", "chair").replace("Ours", "Mine"), text * 2, ""):
        path.write_text(theirs)
        assert not is_ours(path)
    path.write_bytes(text.encode() + b"\xff")
    assert not is_ours(path) and not is_ours(tmp_path / f"none{suffix}")


def test_marked_json_has_what_it_had() -> None:
    assert json.loads(marked(".json", PAGES[".json"])).items() >= {"table": [1, 2]}.items()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_beside_a_page_are_known_by_it(suffix: str, tmp_path: Path) -> None:
    page, one, two = (tmp_path / name for name in (f"page{suffix}", "one", "two"))
    nothing_known = dict.fromkeys((one, two))
    assert others(page, nothing_known) == []
    one.write_bytes(b"1")
    assert others(page, nothing_known) == [one]  # no page tells of it
    assert others(page, {one: b"1"}) == []  # it is what will be written
    page.write_text(marked(suffix, PAGES[suffix], [b"1", b"2"]))
    two.write_bytes(b"2")
    assert others(page, nothing_known) == []
    two.write_bytes(b"mine")
    assert others(page, nothing_known) == [two]
    page.write_text(page.read_text() + "\n")
    assert others(page, {one: b"1", two: b"mine"}) == [page]
