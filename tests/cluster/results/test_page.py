"""Parts of our pages: no text of others becomes markup, and no script runs but ours."""

from __future__ import annotations

import base64
import hashlib
import json

from made_up_study import HOSTILE

from cluster.results import page


def test_a_text_stays_one() -> None:
    assert "<" not in page.text(HOSTILE) and page.text("a\x00b") == "a\ufffdb"
    held = page.embedded({"name": HOSTILE + "</script>"})
    assert "<" not in held and json.loads(held) == {"name": HOSTILE + "</script>"}
    drawn = page.plot("one", HOSTILE, {"data": [HOSTILE], "layout": {}}, 100)
    assert drawn.count("<script") == 1 == drawn.count("</script>") and "<img" not in drawn


def test_a_script_is_let_run_by_its_digest_alone() -> None:
    policy = page.policy([page.SCRIPT])
    digest = base64.b64encode(hashlib.sha256(page.SCRIPT.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
    assert len(page.plotly()) > 1_000_000
