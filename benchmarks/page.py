"""How fast the report page of many pictures is, in Chromium: ``python -m benchmarks.page FOLDER --pictures 5000``.

Pictures of the demo's world, with predictions near the truth, become a page in ``FOLDER``. Measured are, several times
each, the first view (from the start of the navigation to the first cards of the gallery) and each change of a filter
(from the change to the second frame after it, when it is on the screen). Needs Chromium, its driver, and selenium.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import process, vlmdet
from vlmdet_cli.demo.worlds import STREET, write_coco

TURNS = 7
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
)
FIRST_CARDS = """
new MutationObserver((_changes, observer) => {
  if (!document.querySelector('.card')) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.firstCards = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
CHANGE = """
const [name, value, done] = arguments, node = document.querySelector(`[name='${name}']`), started = performance.now();
node.value = value;
for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind, { bubbles: true }));
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - started)));
"""
CHANGES = (("class", "", "hot dog"), ("kind", "", "missed"), ("size", "", "large"), ("sort", "name", "worst"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=5000)
    options = parser.parse_args()
    page = options.folder / "page" / "index.html"
    if not page.is_file():
        write(options.folder, options.pictures)
    with tempfile.TemporaryDirectory() as profile:
        driver = chromium(profile)
        try:
            measure(driver, page.absolute().as_uri())
        finally:
            driver.quit()


def write(folder: Path, pictures: int) -> None:
    """A COCO data set, its predictions and its page."""
    write_coco(folder, STREET, {"test": pictures})
    truth = folder / "annotations" / "instances_test.json"
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    for known in json.loads(truth.read_text())["annotations"]:
        for _ in range(rng.choice(3, p=(0.15, 0.75, 0.1))):
            box = [max(value, 0) for value in (np.array(known["bbox"]) + rng.normal(0, 6, 4)).tolist()]
            category = known["category_id"] if rng.random() < 0.9 else int(rng.integers(1, 7))
            score = float(rng.random())
            rows.append({"image_id": known["image_id"], "category_id": category, "bbox": box, "score": score})
    (folder / "results.json").write_text(json.dumps(rows))
    images, output = folder / "images" / "test", folder / "page"
    files = ("--truth", str(truth), "--predictions", str(folder / "results.json"), "--images", str(images))
    process(vlmdet("viz", *files, "--output", str(output), "--quiet"), folder)


def chromium(profile: str) -> Any:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium") or "google-chrome"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": FIRST_CARDS})
    return driver


def measure(driver: Any, address: str) -> None:
    """Print the medians and the largest, in milliseconds."""

    def first_view() -> float:
        from selenium.webdriver.support.ui import WebDriverWait

        driver.get("about:blank")
        driver.get(f"{address}#view=pictures")
        WebDriverWait(driver, 60).until(lambda _: driver.execute_script("return window.firstCards"))
        return float(driver.execute_script("return window.firstCards"))

    show("first view", first_view)
    for name, *values in CHANGES:
        for before, after in (values, values[::-1]):

            def change(name: str = name, before: str = before, after: str = after) -> float:
                driver.execute_async_script(CHANGE, name, before)
                return float(driver.execute_async_script(CHANGE, name, after))

            show(f"{name} = {after or 'any'}", change)


def show(name: str, measured: Callable[[], float]) -> None:
    times = [measured() for _ in range(TURNS)]
    print(f"{name:<20} {statistics.median(times):7.0f} ms, at most {max(times):.0f}")


if __name__ == "__main__":
    main()
