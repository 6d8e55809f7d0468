import json
import shutil
from pathlib import Path

import pytest

from experiments.benchmarks import main
from privacy.errors import ConfigError

SMALL = ["report", "--configurations", "4", "--seeds", "2", "--repeats", "1"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (apt-get install chromium)")
def test_the_page_is_written_and_opened(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main([*SMALL, "--json", str(out)]) == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    name = "4 configurations of 2 seeds"
    assert list(figures) == [
        f"{name}, {what}" for what in ("page", "written in", "loaded in", "drawn in", "drawn in, processor")
    ]
    assert 4 < figures[f"{name}, page"] < 8, "plotly's script is most of it"
    assert all(value > 0 for value in figures.values())


def test_without_a_browser_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"--chromium.*none is on the PATH"):
        main(SMALL)
