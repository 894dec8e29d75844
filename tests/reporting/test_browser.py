"""The page in a real browser, without network."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from symcere.reporting import Results, collect, document, write

pytestmark = pytest.mark.slow

PROBE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main > *, section > *")].filter(e => e.scrollWidth > e.clientWidth + 1);
  document.documentElement.dataset.probe = JSON.stringify({
    pictures: document.images.length,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.clientWidth).length,
    overflow: Math.max(0, document.documentElement.scrollWidth - innerWidth), wide: wide.length,
    loaded: performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length,
  });
});</script>"""
"""What only the browser knows. The page itself forbids scripts, so the probe goes into a copy without its policy."""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        if os.environ.get("REQUIRE") == "1":
            pytest.fail("no chromium on this machine")
        pytest.skip("no chromium on this machine")
    return found


@pytest.fixture(scope="module")
def page(store, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMCERE_HOME", str(store))
        return write(document(Results(collect("losses"))), tmp_path_factory.mktemp("page") / "report").page


def run(browser: str, *options: str, page: Path) -> str:
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run"]
    base = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", *offline]
    done = subprocess.run([*base, *options, page.as_uri()], capture_output=True, text=True, timeout=240, check=True)
    return done.stdout


def probe(browser: str, page: Path, folder: Path, width: int) -> dict:
    import json
    from html import unescape

    text = page.read_text()
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, text)
    assert bare != text
    (folder / "probed.html").write_text(bare)
    dom = run(browser, f"--window-size={width},1000", "--dump-dom", page=folder / "probed.html")
    return json.loads(unescape(re.search(r'data-probe="([^"]*)"', dom)[1]))


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_is_broken_loaded_or_wider_than_the_window(browser, page, tmp_path, width):
    seen = probe(browser, page, tmp_path, width)
    assert seen["pictures"] == page.read_text().count("<img ") > 5
    assert (seen["broken"], seen["loaded"], seen["overflow"]) == (0, 0, 0)


def test_the_page_itself_is_drawn_with_its_pictures(browser, page, tmp_path):
    import matplotlib.image

    run(browser, "--window-size=1280,6000", f"--screenshot={tmp_path / 'shot.png'}", "--hide-scrollbars", page=page)
    pixels = matplotlib.image.imread(tmp_path / "shot.png")[:, :, :3]
    colours = {tuple(c) for c in (pixels[::2, ::2].reshape(-1, 3) * 255).round().astype(int).tolist()}
    assert (37, 99, 168) in colours  # the first colour of every figure: pictures pass the policy
    assert (253, 253, 251) in colours  # the paper: so does the style
    assert pixels[3000:5500].std() > 0.05
