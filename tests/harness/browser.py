"""A page, looked at in a real browser: what it says on the console, what it asks for, what it draws, how wide it is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
# What the browser would ask for by itself is left off; a name that it asks for all the same is nowhere.
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars",
    "--enable-logging=stderr", "--virtual-time-budget=15000",
)  # fmt: skip
# A window has at least 500 pixels, a frame within it any width. What the page is like is told to whoever frames it.
_FRAME = """<!doctype html><title>frame</title><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe src="{page}" width="{width}" height="{height}"></iframe><pre id="seen" hidden></pre>
<script>addEventListener("message", ({{ data }}) => {{ document.getElementById("seen").textContent = data; }});</script>
"""
_LOOK = """<script>
for (const one of document.querySelectorAll("details")) one.open = true;
setTimeout(() => {
  const within = (one) => [one, ...(one.shadowRoot ? all(one.shadowRoot) : [])];
  const all = (node) => [...node.querySelectorAll("*")].flatMap(within);
  const drawn = (one) => one.tagName === "CANVAS" && one.width > 50 && one.height > 50 &&
    one.getContext("2d").getImageData(0, 0, one.width, one.height).data.some((value) => value);
  const levels = () => Object.fromEntries((window.Bokeh?.documents ?? []).flatMap((one) => one.roots())
    .map(({ name, y_range }) => [name, [y_range.start, y_range.end]]));
  const charts = [...document.querySelectorAll("[data-chart]")];
  parent.postMessage(JSON.stringify({
    empty: charts.filter((chart) => !all(chart).some(drawn)).map((chart) => chart.dataset.chart),
    charts: charts.length, levels: levels(), width: innerWidth, needs: document.documentElement.scrollWidth,
  }), "*");
}, 6000);
</script>
"""
_HEIGHT = 2400


@dataclass(frozen=True)
class Looked:
    """``console``: its lines; ``asked``: URLs beyond files; ``charts`` in the page, and those of them that
    are ``empty``; ``levels``: the lowest and highest value of each one's axis; ``width`` of its window, and what it
    ``needs``, in pixels."""

    console: list[str]
    asked: list[str]
    charts: int
    empty: list[str]
    levels: dict[str, list[float]]
    width: int
    needs: int


def look(page: Path, width: int, folder: Path, name: str) -> Looked:
    """Opens the page in a window of that width; a screenshot ``name`` of its beginning is left in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    copy, frame, log = (folder / f"{name}{end}" for end in (".html", ".frame.html", ".net.json"))
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", _LOOK + "</body>"), encoding="utf-8")
    frame.write_text(_FRAME.format(page=copy.as_uri(), width=width, height=_HEIGHT), encoding="utf-8")
    shape = f"--window-size={max(width, 500)},{_HEIGHT}"
    options = [str(BROWSER), *_QUIET, shape, f"--user-data-dir={folder / 'profile'}"]
    output = [f"--log-net-log={log}", "--dump-dom"], [f"--screenshot={folder / name}.png"]
    ran, shown = (
        subprocess.run([*options, *one, frame.as_uri()], capture_output=True, text=True, timeout=240, check=True)
        for one in output
    )
    found = re.search(r'<pre id="seen"[^>]*>(.+?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr
    seen = json.loads(html.unescape(found[1]))
    said = [line for line in (ran.stderr + shown.stderr).splitlines() if "CONSOLE" in line]
    return Looked(said, _asked(log), seen["charts"], seen["empty"], seen["levels"], seen["width"], seen["needs"])


def _asked(log: Path) -> list[str]:
    """The URLs that pages asked for; the browser's own requests have no origin."""
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [one["params"] for one in events if {"url", "initiator"} <= one.get("params", {}).keys()]
    return [one["url"] for one in asked if one["initiator"] != "not an origin" and not one["url"].startswith("file:")]
