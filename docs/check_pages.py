"""Looks at every page of the built documentation, as readers see it, and says what does not fit.

python docs/check_pages.py docs/_build/html                     what sticks out or is cut
python docs/check_pages.py docs/_build/html --shots pages       and a picture of each, in `pages`
python docs/check_pages.py docs/_build/html index optimizers/   of some pages only

Each page is opened in Chromium at the width of a desk and of a phone, light and dark. It fails if
it asks the network for anything, or if anything in it is wider than its place: the page itself, or
a block that would have to be scrolled sideways to be read. Neither may a name in a table be broken
into pieces of a letter or two. On a phone alone code may be scrolled,
and what is marked with the class `wide`, as tables of many columns are.

Where there is no Chromium it says so, and ends with 0; `--chromium` names one.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Without a window, and without a word to anybody.
OPTIONS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)

#: The tallest picture that is taken, in pixels.
TALLEST = 12_000

#: What in a page is wider than its place: [what, its width, the width of the place].
FAULTS = """((phone) => {
  const found = [], root = document.documentElement;
  const name = (e) => {
    const text = (e.innerText || e.getAttribute('src') || '').trim().split('\\n')[0].slice(0, 60);
    const kind = e.tagName.toLowerCase();
    return kind + (e.classList.length ? '.' + [...e.classList].join('.') : '') + ': ' + text;
  };
  const note = (e, wide, place) => found.push([name(e), Math.ceil(wide), Math.floor(place)]);
  if (root.scrollWidth > root.clientWidth) note(root, root.scrollWidth, root.clientWidth);
  const article = document.querySelector('article') || document.body;
  const mayScroll = (e) => phone && (e.tagName === 'PRE' || e.closest('.wide') !== null);
  const isScroller = (e) => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  const hanging = 9;  // headings of the theme reach into the margin
  const edge = article.getBoundingClientRect().right + hanging;
  for (const e of article.querySelectorAll('*')) {
    const box = e.getBoundingClientRect();
    if (box.width === 0 || box.height === 0 || e.closest('svg')) continue;
    if (e.tagName === 'CODE' && e.closest('td, th')) {
      const size = parseFloat(getComputedStyle(e).fontSize);
      const letters = Math.max(...e.innerText.split(/\\s+/).map((word) => word.length));
      if (letters > 4 && box.width < 2 * size) note(e, letters * size * 0.6, box.width);
    }
    if (getComputedStyle(e).position === 'absolute' || e.closest('.visually-hidden')) continue;
    const scroller = isScroller(e), hides = getComputedStyle(e).overflowX !== 'visible';
    if (hides && e.scrollWidth > e.clientWidth + 1 && !(scroller && mayScroll(e))) {
      note(e, e.scrollWidth, e.clientWidth);
    }
    let around = e.parentElement;
    if (box.right <= edge || around.getBoundingClientRect().right > edge) continue;
    while (around !== article && getComputedStyle(around).overflowX === 'visible') {
      around = around.parentElement;
    }
    if (around === article) note(e, box.right, edge);
  }
  return found;
})"""


class Mode(NamedTuple):
    """How a page is looked at."""

    name: str
    width: int
    scheme: str

    @property
    def phone(self) -> bool:
        """Whether the screen is that of a phone."""
        return self.width < 600


MODES = tuple(
    Mode(f"{width}-{scheme}", width, scheme)
    for width in (1440, 390)
    for scheme in ("light", "dark")
)


class Browser:
    """One tab of Chromium, told what to do in JSON over a pipe: its DevTools protocol.

    Parameters
    ----------
    commands, answers
        The ends of the pipes that are ours.
    """

    def __init__(self, commands: BinaryIO, answers: BufferedReader) -> None:
        self.commands, self.answers = commands, answers
        self.count, self.session, self.asked = 0, "", []
        self.pending = b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol; return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self.next_message()
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"check_pages: {method}: {answer['error']['message']}")
                return answer["result"]

    def next_message(self) -> dict[str, Any]:
        """Return the next message, and note what a page asks the network for."""
        while b"\0" not in self.pending:
            read = self.answers.read1(1 << 20)
            if not read:
                raise RuntimeError("check_pages: Chromium has ended; run it by hand to see why")
            self.pending += read
        first, _, self.pending = self.pending.partition(b"\0")
        message = json.loads(first)
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.asked.append(url)
        return message

    def open(self, page: Path) -> list[str]:
        """Open a page; return what it asks the network for."""
        self.asked.clear()
        self.call("Page.navigate", url=page.as_uri())
        while self.next_message().get("method") != "Page.loadEventFired":
            pass
        return list(self.asked)

    def look(self, mode: Mode) -> list[tuple[str, int, int]]:
        """Show the page in a mode; return what in it is wider than its place."""
        screen = {"width": mode.width, "height": 900, "deviceScaleFactor": 1, "mobile": mode.phone}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = [{"name": "prefers-color-scheme", "value": mode.scheme}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        script = f"document.fonts.ready.then(() => {FAULTS}({str(mode.phone).lower()}))"
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"check_pages: {answer['exceptionDetails']}")
        return [tuple(fault) for fault in answer["result"]["value"]]

    def shoot(self, mode: Mode, file: Path) -> None:
        """Take a picture of the whole page as it is shown now."""
        height = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        clip = {"x": 0, "y": 0, "width": mode.width, "height": min(height, TALLEST), "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def running(chromium: str) -> Iterator[Browser]:
    """Run Chromium with a profile of its own, which is gone afterwards."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [*OPTIONS, f"--user-data-dir={profile}"]
        if os.geteuid() == 0:  # as in a container, where Chromium has no sandbox
            options.append("--no-sandbox")
        # It reads from descriptor 3 and writes to 4.
        joined = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        process = subprocess.Popen(
            ["bash", "-c", joined, "bash", chromium, *options],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        with os.fdopen(ours_out, "wb") as commands, os.fdopen(ours_in, "rb") as answers:
            try:
                yield Browser(commands, answers)
            finally:
                process.terminate()
                process.wait()


def pages_in(folder: Path, wanted: list[str]) -> list[Path]:
    """Return the pages of a folder, or those whose names start with what is wanted."""
    found = sorted(folder.rglob("*.html"))
    names = {page: page.relative_to(folder).as_posix() for page in found}
    inside = [page for page in found if not names[page].startswith("_")]
    return [page for page in inside if not wanted or names[page].startswith(tuple(wanted))]


def check(browser: Browser, folder: Path, page: Path, shots: Path | None) -> list[str]:
    """Return what is wrong with a page, in words."""
    name = page.relative_to(folder).with_suffix("").as_posix()
    lines = [f"{name}: asks the network for {url}" for url in browser.open(page)]
    faults: dict[tuple[str, int, int], dict[str, None]] = {}
    for mode in MODES:
        for fault in browser.look(mode):
            faults.setdefault(fault, {})[mode.name] = None
        if shots is not None:
            browser.shoot(mode, shots / f"{name.replace('/', '.')}-{mode.name}.png")
    for (what, wide, place), modes in faults.items():
        lines.append(f"{name}, {', '.join(modes)}: {what!r} is {wide} wide, its place {place}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Look at the pages; return 1 if one of them has a fault."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path, help="the built documentation")
    parser.add_argument("pages", nargs="*", help="what the names of pages start with; all")
    parser.add_argument("--shots", type=Path, help="a folder for pictures")
    parser.add_argument("--chromium", help="the browser; one of the usual names")
    options = parser.parse_args(arguments)
    chromium = options.chromium or next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None or os.name != "posix":
        print("check_pages: skipped: no Chromium on this machine; install chromium, on Linux")
        return 0
    folder = options.folder.absolute()
    pages = pages_in(folder, options.pages)
    if not pages:
        parser.error(f"no such page in {folder}; build the documentation first: nox -s docs")
    lines = []
    with running(chromium) as browser:
        for page in pages:
            lines += check(browser, folder, page, options.shots)
    print(*lines, f"{len(pages)} pages in {len(MODES)} modes: {len(lines)} faults", sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
