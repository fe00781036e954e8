"""The report page in a real browser: its numbers are eval's, its controls work, and no name or answer runs.

Needs Chromium with its driver and the package selenium; skipped where one is missing.
"""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import coco_document
from vlmdet_cli.errors import UsageError
from vlmdet_cli.stages.evaluation.evaluate import EvalProtocol, Report, evaluate
from vlmdet_cli.stages.evaluation.viz import OtherAnswers, VizRequest, draw

SIZE, CLASSES = (200, 150), ("cat", "dog", "red bus")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """A page in Chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, address: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + address)

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def texts(self, selector: str) -> list[str]:
        return [str(element.text) for element in self.all(selector)]

    def choose(self, name: str, value: str) -> None:
        """Set a control of the page, as a person does."""
        self.run(
            "const node = document.querySelector(`[name='${arguments[0]}']`); node.value = arguments[1];"
            "for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind, {bubbles: true}))",
            name,
            value,
        )

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def until(self, script: str) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60).until(lambda _driver: self.run(f"return {script}"))

    def width(self, pixels: int, *, dark: bool = False) -> None:
        metrics = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})

    def complaints(self) -> list[str]:
        """What the console holds since the last call."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    pytest.importorskip("selenium", reason="the package selenium is not installed")
    programs = [next(filter(None, map(shutil.which, names)), None) for names in
                (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))]  # fmt: skip
    if not all(programs):
        pytest.skip("no Chromium with chromedriver on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(programs[0])
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser at its usual width; a test fails if its page complains."""
    chromium.complaints()
    chromium.width(1280)
    yield chromium
    assert chromium.complaints() == []


class Set:
    """A data set of random boxes, its predictions as COCO results with scores, and its page."""

    def __init__(self, folder: Path, pictures: int, seed: int = 0) -> None:
        self.folder, rng = folder, np.random.default_rng(seed)
        self.truth, self.predictions = folder / "truth.json", folder / "results.json"
        names = [f"picture {number}.jpg" for number in range(pictures)]
        boxes = {name: [self._object(rng) for _ in range(rng.integers(0, 6))] for name in names}
        document = coco_document(boxes, size=SIZE, categories=CLASSES)
        document["images"][0]["exhaustive_categories"] = ["cat"]
        document["ignored"] = [
            {"id": 9000 + image["id"], "image_id": image["id"], "category_id": 1, "bbox": self._box(rng), "area": 25,
             "iscrowd": 0, "category": "cat", "reason": "too small"}
            for image in document["images"][::3]
        ]  # fmt: skip
        for image in document["images"]:
            path = folder / "images" / image["file_name"]
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", SIZE, (90, 120, 60)).save(path)
        self.truth.write_text(json.dumps(document))
        self.results = [
            row for known in (*document["annotations"], *document["ignored"]) for row in self._near(known, rng)
        ]
        self.predictions.write_text(json.dumps(self.results))

    @staticmethod
    def _box(rng: np.random.Generator) -> list[float]:
        left, top = rng.integers(0, 120), rng.integers(0, 90)
        return [float(left), float(top), float(rng.integers(8, 80)), float(rng.integers(8, 60))]

    def _object(self, rng: np.random.Generator) -> tuple[str, Any]:
        label = str(rng.choice(CLASSES))
        return (f"crowd:{label}" if rng.random() < 0.1 else label), tuple(self._box(rng))

    def _near(self, known: dict[str, Any], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        """Up to three boxes near an annotated one, some of another class."""
        for _ in range(rng.integers(0, 4)):
            shift = rng.integers(-12, 13, size=4)
            box = [float(value) for value in np.maximum(np.array(known["bbox"]) + shift, [0, 0, 2, 2])]
            category = int(rng.integers(1, 4)) if rng.random() < 0.3 else known["category_id"]
            score = round(float(rng.random()), 3)
            yield {"image_id": known["image_id"], "category_id": category, "bbox": box, "score": score}

    def request(self, output: Path, **options: Any) -> VizRequest:
        return VizRequest(self.truth, self.predictions, self.folder / "images", output, limit=1, **options)

    def page(self, **options: Any) -> Path:
        return Path(draw(self.request(self.folder / "viz", **options)).index)

    def report(self, iou: float = 0.5, score: float = 0.0) -> Report:
        kept = self.folder / f"kept-{score}.json"
        kept.write_text(json.dumps([row for row in self.results if row["score"] >= score]))
        return evaluate(self.truth, kept, EvalProtocol(iou=iou, duplicates="remove"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Set:
    return Set(tmp_path_factory.mktemp("set"), 40)


@pytest.fixture(scope="module")
def page(data: Set) -> Path:
    return data.page(protocol=EvalProtocol(duplicates="remove"))


SELECTORS = {"F1": "f1", "Precision": "precision", "Recall": "recall", "Mean IoU": "mean_iou"}


def headline(browser: Browser) -> dict[str, float]:
    tiles = browser.run(
        "return [...document.querySelectorAll('.tile')].map((tile) => "
        "[tile.dataset.measure, tile.querySelector('.big').dataset.value])"
    )
    return {SELECTORS[name]: float(value) for name, value in tiles}


@pytest.mark.parametrize(("iou", "score"), [(0.5, 0.0), (0.75, 0.0), (0.3, 0.0), (0.5, 0.6), (0.65, 0.25)])
def test_the_numbers_are_those_of_eval_at_every_threshold(
    browser: Browser, data: Set, page: Path, iou: float, score: float
) -> None:
    report = data.report(iou, score)
    browser.open(page)
    browser.choose("iou", str(iou))
    browser.choose("score", str(score))
    assert headline(browser) == pytest.approx({name: report.overall[name] for name in SELECTORS.values()}, abs=1e-12)
    counts = browser.texts("#counts")[0]
    overall = report.overall
    assert counts.startswith(
        f"{overall['tp']} found, {overall['fp']} false, {overall['fn']} missed, {overall['ignored']} not counted"
    )
    shown = {row.split("\n")[0]: row for row in browser.texts(".classes tbody tr")}
    for name in CLASSES:
        own = report.per_class[name]
        cells = browser.run(
            "return [...document.querySelectorAll('.classes tbody tr')].find((row) => "
            "row.cells[0].textContent === arguments[0]).innerText.split(/\\s*[\\t\\n]\\s*/)", name)  # fmt: skip
        assert [str(own[key]) for key in ("tp", "fp", "fn")] == cells[-4:-1], shown
    sizes = browser.run("return [...document.querySelectorAll('section[aria-label=Sizes] tbody tr')].map((row) => "
                        "[...row.cells].slice(-3).map((cell) => Number(cell.textContent)))")  # fmt: skip
    assert sizes == [[size[key] for key in ("tp", "fp", "fn")] for size in report.sizes.values()]


def test_the_report_stands_in_the_page_with_its_intervals(browser: Browser, data: Set, page: Path) -> None:
    low, high = data.report().intervals["f1"]
    browser.open(page)
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in browser.texts(".tile")[0]
    assert {"Detection", "Classes, the worst first", "Sizes", "Confusion", "Curves", "Counts"} <= set(
        browser.texts("h2")
    )


def test_the_confusion_adds_up_and_a_cell_leads_to_its_pictures(browser: Browser, data: Set, page: Path) -> None:
    browser.open(page)
    rows = browser.run(
        "return [...document.querySelectorAll('.confusion tbody tr')].map((row) => "
        "[...row.cells].slice(1).map((cell) => Number(cell.textContent.replace('·', '0'))))"
    )
    report = data.report()
    by_class = [report.per_class[name] for name in CLASSES]
    assert [sum(row) for row in rows[:3]] == [own["tp"] + own["fn"] for own in by_class]
    assert [sum(row[column] for row in rows) for column in range(3)] == [own["tp"] + own["fp"] for own in by_class]
    browser.run("document.querySelector('.confusion .heat button').click()")
    assert "kind=wrong" in browser.driver.current_url
    assert browser.all(".card")
    browser.driver.back()
    browser.until("document.querySelector('.confusion') !== null")


def test_filters_sort_and_search_choose_pictures_and_have_an_address(browser: Browser, data: Set, page: Path) -> None:
    browser.open(page, "#view=pictures")
    assert browser.texts("#shown") == ["40 of 40 pictures"]
    browser.choose("kind", "missed")
    missed = sum(count > 0 for count in data.report().pictures["fn"])
    assert browser.texts("#shown") == [f"{missed} of 40 pictures"]
    browser.choose("class", "dog")
    assert 0 < int(browser.texts("#shown")[0].split()[0]) < missed
    browser.choose("sort", "name")
    names = browser.texts(".card .name")
    assert names == sorted(names, key=lambda name: int(name.split()[1].removesuffix(".jpg")))
    address = browser.driver.current_url.partition("#")[2]
    assert address == "view=pictures&class=dog&kind=missed&sort=name"
    browser.open(page, "#" + address)
    assert browser.texts(".card .name") == names
    browser.choose("q", names[-1].upper())
    assert browser.texts(".card .name") == [names[-1]]
    browser.run("[...document.querySelectorAll('.filters button')].find((b) => b.textContent === 'Reset').click()")
    assert browser.texts("#shown") == ["40 of 40 pictures"]


@pytest.mark.parametrize("kind", ["found", "false", "wrong", "duplicate", "poor", "nothing", "aside", "crowd"])
def test_every_kind_has_pictures_and_fewer_than_all(browser: Browser, page: Path, kind: str) -> None:
    browser.open(page, f"#view=pictures&kind={kind}")
    assert 0 < int(browser.texts("#shown")[0].split()[0]) < 40


def test_marks_can_be_switched_off_and_are_told_apart_without_colour(browser: Browser, page: Path) -> None:
    browser.open(page, "#view=pictures&kind=false")
    styles = {
        state: browser.run(
            "return getComputedStyle(document.querySelector(`.mark.${arguments[0]} .edge`)).strokeDasharray", state
        )
        for state in ("found", "false", "missed")
    }
    assert len(set(styles.values())) == 3
    browser.run("document.querySelector('.layers input[name=false]').click()")
    assert not browser.all(".card .mark.false")
    assert "hide=" in browser.driver.current_url


def test_the_large_view_is_walked_by_keys_and_has_an_address(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page, "#view=pictures&sort=name&picture=picture+3.jpg")
    assert browser.texts("dialog h2") == ["picture 3.jpg"]
    browser.press(Keys.ARROW_RIGHT)
    assert browser.texts("dialog h2") == ["picture 4.jpg"]
    browser.press("k")
    browser.press("k")
    assert browser.texts("dialog h2") == ["picture 2.jpg"]
    browser.until("location.hash.includes('picture=picture+2.jpg')")
    browser.press(Keys.ESCAPE)
    browser.until("!document.getElementById('large').open")
    assert "picture=" not in browser.driver.current_url
    browser.press("/")
    assert browser.run("return document.activeElement.name") == "q"


def test_nothing_of_names_labels_and_answers_runs(browser: Browser, tmp_path: Path) -> None:
    run = "document.title='run'"
    name, label = f'<img src=x onerror={run}>&amp;".jpg', f"</script><script>{run}</script>"
    text = f"<svg onload={run}>" + label
    image = tmp_path / "images" / name
    image.parent.mkdir()
    Image.new("RGB", SIZE).save(image)
    document = coco_document({name: [(label, (10, 10, 50, 50))]}, size=SIZE, categories=[label])
    (tmp_path / "truth.json").write_text(json.dumps(document))
    row = {"image": name, "image_id": 1, "size": SIZE, "prompt": f"<image>{text}", "text": text, "dialect": "qwen2_vl"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row) + "\n")
    index = Path(
        draw(VizRequest(tmp_path / "truth.json", tmp_path / "answers.jsonl", image.parent, tmp_path / "viz")).index
    )
    for view in ("summary", "pictures"):
        browser.open(index, f"#view={view}")
        browser.run("document.querySelector('[data-view=pictures]').click(); document.querySelector('.card').click()")
        assert browser.texts("dialog h2") == [name]
        assert browser.texts("pre.answer") == [text]
        assert any(label in line for line in browser.texts(".boxes li"))
        assert browser.driver.title == "answers: predictions and truth"
        assert browser.run("return document.querySelectorAll('img, script').length") == 2


def test_a_single_file_needs_no_other(browser: Browser, data: Set, tmp_path: Path) -> None:
    alone = tmp_path / "sent.html"
    shutil.copy(data.page(single_file=True), alone)
    browser.open(alone, "#view=pictures")
    assert browser.all(".card image")
    browser.run("return document.querySelector('.card').click()")
    assert not browser.all("text.gone")


def test_pictures_that_are_gone_have_a_placeholder_and_are_counted(browser: Browser, tmp_path: Path) -> None:
    few = Set(tmp_path, 5)
    (tmp_path / "images" / "picture 2.jpg").unlink()
    index = few.page()
    browser.open(index, "#view=pictures&answer=gone")
    assert browser.texts(".card .name") == ["picture 2.jpg"]
    assert browser.texts(".card text.gone") == ["picture gone"]
    assert any("1 picture of the page cannot be read" in note for note in browser.texts(".warning li"))


def test_the_truth_alone_has_a_gallery(browser: Browser, data: Set, tmp_path: Path) -> None:
    index = Path(draw(VizRequest(data.truth, None, data.folder / "images", tmp_path / "viz", limit=1)).index)
    browser.open(index)
    assert browser.texts("#shown") == ["40 of 40 pictures"]
    assert browser.all(".mark.truth")
    browser.choose("class", "dog")
    assert 0 < int(browser.texts("#shown")[0].split()[0]) < 40


def test_two_models_are_compared_picture_by_picture(browser: Browser, data: Set, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps([{**row, "bbox": [0, 0, 9, 9]} for row in data.results[::3]] + data.results[1::3]))
    reports = [evaluate(data.truth, path).pictures for path in (earlier, data.predictions)]
    before, after = ([fp + fn for fp, fn in zip(report["fp"], report["fn"], strict=True)] for report in reports)
    changes = [old - new for old, new in zip(before, after, strict=True)]
    other = OtherAnswers(earlier, ("run-001", "run-002"))
    options: dict[str, Any] = {"other": other}
    index = Path(draw(data.request(tmp_path / "viz", **options)).index)
    browser.open(index)
    counts = browser.run(
        "return [...document.querySelector('section[aria-label=\"run-002 against run-001\"] tbody').rows].map((row) => "
        "Number(row.cells[2].textContent))"
    )
    assert counts == [sum(change > 0 for change in changes), sum(change < 0 for change in changes), changes.count(0)]
    assert 0 < counts[0] < 40
    browser.open(index, "#view=pictures&change=worse&sort=worse")
    assert browser.texts("#shown") == [f"{counts[1]} of 40 pictures"]
    assert browser.texts(".card .name")[0] == f"picture {changes.index(min(changes))}.jpg"
    marks = "return [...document.querySelectorAll('.card')].map((card) => card.querySelectorAll('.mark').length)"
    of_later = browser.run(marks)
    browser.choose("side", "before")
    assert browser.run(marks) != of_later
    assert "side=before" in browser.driver.current_url


def test_answers_under_another_protocol_are_not_compared(data: Set, tmp_path: Path) -> None:
    unscored = tmp_path / "unscored.json"
    unscored.write_text(json.dumps([{key: row[key] for key in row if key != "score"} for row in data.results]))
    with pytest.raises(UsageError, match="different protocols"):
        draw(data.request(tmp_path / "viz", other=OtherAnswers(unscored, ("a", "b"))))
    assert not (tmp_path / "viz").exists()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280, 2560])
def test_no_width_needs_sideways_scrolling(browser: Browser, page: Path, width: int, *, dark: bool) -> None:
    browser.width(width, dark=dark)
    for address in ("", "#view=pictures", "#view=pictures&picture=picture+3.jpg"):
        browser.open(page, address)
        assert browser.run("return document.documentElement.scrollWidth - innerWidth") <= 0
    ground = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(ground.replace("rgb(", "[").replace(")", "]"))) < 200) == dark


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core. The package's Python code, which is for another driver, is not imported."""
    package = find_spec("axe_playwright_python")
    if package is None or not package.submodule_search_locations:
        pytest.skip("axe-core is not installed: the extra `dev` has it")
    return (Path(package.submodule_search_locations[0]) / "axe.min.js").read_text()


def barriers(browser: Browser, axe: str) -> dict[str, Any]:
    """What axe finds in the page as it stands, by rule. Only contrast over pictures may be undecided."""
    browser.run(axe)
    results = browser.driver.execute_async_script("axe.run().then(arguments[0])")
    assert len(results["passes"]) > 20
    rules = [*results["violations"], *(rule for rule in results["incomplete"] if rule["id"] != "color-contrast")]
    return {rule["id"]: [(node["html"], node["failureSummary"]) for node in rule["nodes"]] for rule in rules}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "address", ["", "#view=pictures", "#view=pictures&kind=false", "#view=pictures&picture=picture+3.jpg"]
)
def test_axe_finds_no_barrier_in_any_view(browser: Browser, page: Path, axe: str, address: str, *, dark: bool) -> None:
    browser.width(1280, dark=dark)
    browser.open(page, address)
    assert barriers(browser, axe) == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_barrier_in_a_comparison_on_a_telephone(
    browser: Browser, data: Set, axe: str, tmp_path: Path, *, dark: bool
) -> None:
    other = OtherAnswers(data.predictions, ("run-001", "run-002"))
    index = draw(data.request(tmp_path / "viz", other=other)).index
    browser.width(360, dark=dark)
    for address in ("", "#view=pictures"):
        browser.open(Path(index), address)
        assert barriers(browser, axe) == {}


def test_axe_finds_a_barrier_where_there_is_one(browser: Browser, page: Path, axe: str) -> None:
    browser.open(page, "#view=pictures")
    browser.run(
        "const select = document.querySelector('[name=class]'); select.closest('label').replaceWith(select);"
        "document.body.style.color = '#aaa'"
    )
    assert {"color-contrast", "select-name"} <= set(barriers(browser, axe))


def test_a_long_gallery_holds_only_the_cards_near_the_window(browser: Browser, tmp_path: Path) -> None:
    browser.open(Set(tmp_path, 400).page(), "#view=pictures")
    assert browser.texts("#shown") == ["400 of 400 pictures"]
    assert len(browser.all(".card")) < 60
    browser.run("window.scrollTo(0, document.documentElement.scrollHeight / 2)")
    browser.until(
        "[...document.querySelectorAll('.card')].filter((card) => card.getBoundingClientRect().top >= 0 && "
        "card.getBoundingClientRect().bottom <= innerHeight).length > 2"
    )
    assert len(browser.all(".card")) < 60


def test_cards_stand_in_the_order_of_the_pictures_after_scrolling_back(browser: Browser, tmp_path: Path) -> None:
    browser.open(Set(tmp_path, 400).page(), "#view=pictures&sort=name")
    for top in (6000, 5500, 5900):  # some cards stay, others come before and behind them
        browser.run(f"window.scrollTo(0, {top})")
        browser.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        cards = browser.run(
            "return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect())"
            ".map((box) => [box.top, box.left])"
        )
        assert min(cards)[0] < 0 < max(cards)[0]
        assert cards == sorted(cards)
