# SPDX-FileCopyrightText: Copyright (c) 2026 The earth2_corrdiff authors
# SPDX-License-Identifier: Apache-2.0
"""The web page: its files, and itself in a headless Chromium, where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from job_kit import ORDER, ROOT, JobService, serving
from reasons import NO_BROWSER
from run_kit import SHAPE, TIMES, load, make_package
from service_kit import Valve

try:
    from selenium import webdriver
except ImportError:
    webdriver = None

PAGE = files("earth2_corrdiff.service") / "page"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
WAIT = 30
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
DESKTOP, PHONE = (1280, 1000), (360, 740)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve inputs, so that there is wind; made up, so that it must be said."""
    return make_package(tmp_path_factory.mktemp("package"), number_of_samples=2)


@pytest.fixture(scope="module")
def service(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobService]:
    with serving(tmp_path_factory.mktemp("page"), load(package), keep_jobs=50, max_jobs=20) as service:
        yield service


# its files


class Collector(HTMLParser):
    """All tags and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.scripts.append(data)


@pytest.fixture(scope="module")
def index(service: JobService) -> httpx.Response:
    return service.client.get("/")


@pytest.mark.slow
def test_the_page_and_all_that_it_names_is_served(service: JobService, index: httpx.Response) -> None:
    assert index.status_code == 200 and index.headers["content-type"] == "text/html; charset=utf-8"
    named = set(re.findall(r'(?:href|src)="(page/[^"]+)"', index.text))
    for file in PAGE.iterdir():
        named |= set(re.findall(r'from "\./([a-z]+\.js)"', file.read_text()))
    named = {name if name.startswith("page/") else f"page/{name}" for name in named}
    assert named == {f"page/{file.name}" for file in PAGE.iterdir() if file.name != "index.html"}
    kinds = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    for name in named:
        answer = service.client.get(f"/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"] == kinds[name.rpartition(".")[2]]
        again = service.client.get(f"/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert again.status_code == 304 and again.content == b""
    for other in ("/page/", "/page/index.html", "/page/../app.py", "/page/%2e%2e/app.py", "/page/x.js"):
        assert service.client.get(other).status_code == 404


def test_the_policy_is_strict_and_the_page_keeps_it(index: httpx.Response) -> None:
    policy = index.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert index.headers["x-content-type-options"] == "nosniff"
    page = Collector(index.text)
    assert page.scripts == []
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (
            tag,
            attributes,
        )


def test_nothing_comes_from_elsewhere() -> None:
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text and "@import" not in text and "innerHTML" not in text, file.name


def test_every_field_has_a_label(index: httpx.Response) -> None:
    tags = Collector(index.text).tags
    labelled = {attributes.get("for") for tag, attributes in tags if tag == "label"}
    for tag, attributes in tags:
        if tag in ("input", "select") and "hidden" not in attributes:
            assert attributes["id"] in labelled or attributes.get("aria-label"), attributes
    assert ("html", {"lang": "en"}) in tags


# itself, in a browser


def browsing(test: Any) -> Any:
    """Mark a test that needs a browser; skip it where there is none."""
    missing = pytest.mark.skipif(not (webdriver and CHROMIUM and DRIVER), reason=NO_BROWSER)
    return pytest.mark.browser(missing(test))


class Browser:
    """A headless Chromium that looks at one service."""

    def __init__(self, service: JobService) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in OPTIONS:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.base = str(service.client.base_url)
        self.devtools("Network.enable")

    def devtools(self, command: str, **what: Any) -> None:
        self.driver.execute_cdp_cmd(command, what)

    def open(self, job: str = "", size: tuple[int, int] = DESKTOP, shown: bool = True) -> None:
        """The page, of this size, with a job on the maps."""
        width, height = size
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.driver.get("about:blank")
        self.driver.get(f"{self.base}/#{job}")
        if job and shown:
            self.until("!document.getElementById('shown').hidden")
            self.until("document.getElementById('fine-range').textContent")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT, 0.05).until(lambda _: self.run(f"return {expression}"))

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def fill(self, name: str, value: object) -> None:
        """Set a field as a user's typing or choosing does."""
        self.run(
            "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('change'))",
            name,
            str(value),
        )

    def press(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def click_cell(self, row: int, column: int, kind: str = "click") -> None:
        """Click or point at a cell of the fine map; rows count from the south."""
        self.run(
            "const box = arguments[0].getBoundingClientRect();"
            "const [W, H, row, column] = [...arguments].slice(1, 5);"
            "const [left, top, right, bottom] = [44, 8, 8, 22];"
            "const x = box.left + left + (column + 0.5) / W * (box.width - left - right);"
            "const y = box.top + top + (H - 1 - row + 0.5) / H * (box.height - top - bottom);"
            "const event = new PointerEvent(arguments[5], {clientX: x, clientY: y, bubbles: true});"
            "arguments[0].dispatchEvent(event)",
            *(self.find("fine"), SHAPE[1], SHAPE[0], row, column, kind),
        )

    def pixel(self, name: str, row: int, column: int) -> list[int]:
        """Colour in the upper left quarter of a cell, where no mark, arrow or line of the tests lies."""
        found: list[int] = self.run(
            "const canvas = document.getElementById(arguments[0]);"
            "const [W, H, row, column] = [...arguments].slice(1);"
            "const x = 44 + (column + 0.25) / W * (canvas.width - 52);"
            "const y = 8 + (H - 1 - row + 0.25) / H * (canvas.height - 30);"
            "return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)",
            *(name, SHAPE[1], SHAPE[0], row, column),
        )
        return found

    def find(self, name: str) -> Any:
        return self.driver.find_element("id", name)

    def complaints(self) -> list[str]:
        """What the browser has logged: violations of the policy, failed requests, exceptions."""
        found = [entry for entry in self.driver.get_log("browser") if entry["level"] != "DEBUG"]
        # "rendering" is about the tests' own reading of canvases
        return [entry["message"] for entry in found if entry["source"] != "rendering"]


@pytest.fixture(scope="module")
def browser(service: JobService) -> Iterator[Browser]:
    browser = Browser(service)
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def two_times(service: JobService) -> str:
    return service.done(time=None, times=list(TIMES), samples=2)


@browsing
def test_from_the_form_to_the_maps(browser: Browser, service: JobService) -> None:
    browser.open()
    browser.until("!document.querySelector('#order button').disabled")
    browser.fill("count", 2)
    browser.fill("samples", 3)
    browser.fill("seed", 42)
    browser.press("#order button")
    browser.until("!document.getElementById('shown').hidden")
    (newest, *_) = service.client.get(ROOT).json()["jobs"]
    asked = service.get(newest["id"]).json()["request"]
    times = ["2024-07-24T12:00", "2024-07-24T18:00"]
    want = {"times": times, "source": "demo", "samples": 3, "steps": 2, "solver": "heun", "seed": 42}
    assert asked == want
    assert browser.text("result-title") == "2024-07-24 12:00 to 18:00 UTC · 3 members"
    assert "done in" in browser.text("jobs")
    assert browser.complaints() == []


@browsing
def test_what_the_map_shows_is_the_field(browser: Browser, service: JobService, two_times: str) -> None:
    browser.open(two_times)
    browser.fill("quantity", 1)
    browser.until("document.getElementById('fine-title').textContent === '2 m temperature, member 0'")
    scale = service.get(two_times, "/fields").json()["quantities"][1]["scale"]
    for name, show in (("fine", "member-0"), ("coarse", "coarse")):
        field = service.field(two_times, "t2m", show=show)
        for row, column in ((2, 3), (20, 30), (5, 33), (21, 1)):
            shade = (field[row, column] - scale["min"]) / (scale["max"] - scale["min"]) * len(scale["colors"])
            color = scale["colors"][min(max(int(shade), 0), len(scale["colors"]) - 1)]
            want = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
            assert browser.pixel(name, row, column) == want, (name, row, column)
    values = service.field(two_times, "t2m", show="member-0")
    said = browser.text("fine-range")
    assert said.startswith(f"min {shown(values.min())} · mean ")
    assert said.endswith(f" · max {shown(values.max())} °C")
    assert browser.complaints() == []


def shown(value: float) -> str:
    """A number as the page writes it."""
    return f"{value:.1f}".replace("-", "−")


@browsing
def test_the_value_under_the_pointer_and_all_members_at_a_click(
    browser: Browser, service: JobService, two_times: str
) -> None:
    browser.open(two_times)
    browser.fill("quantity", 1)
    browser.until("document.getElementById('fine-title').textContent === '2 m temperature, member 0'")
    point = service.get(two_times, "/points/t2m", row=15, column=20).json()
    browser.click_cell(15, 20, "pointermove")
    reading = browser.text("reading")
    assert f"{point['lat']:.2f}°N {point['lon']:.2f}°E: member 0 {shown(point['values'][0][0])} °C" in reading
    assert f"coarse input {shown(point['coarse'][0])} °C" in reading
    browser.click_cell(15, 20)
    browser.until("document.querySelectorAll('#chart path.member').length === 2")
    members = [shown(value) for value in sorted(point["values"][0])]
    assert f"members from {members[0]} to {members[-1]} °C" in browser.text("point-summary")
    browser.press("#later")
    browser.until("document.getElementById('point-summary').textContent.startsWith('2024-07-25 00:00 UTC')")
    browser.run(
        "document.getElementById('fine').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))"
    )
    north = service.get(two_times, "/points/t2m", row=16, column=20).json()
    browser.until(f"document.getElementById('point-title').textContent.includes('{north['lat']:.2f}°N')")
    assert browser.complaints() == []


@browsing
def test_one_time_shows_a_dot_for_each_member(browser: Browser, service: JobService) -> None:
    job = service.done(samples=3)
    browser.open(job)
    assert browser.run("return document.getElementById('when-field').hidden")
    browser.click_cell(10, 10)
    browser.until("document.querySelectorAll('#chart circle').length === 3")
    assert browser.run("return document.querySelectorAll('#chart circle.picked').length") == 1


@browsing
def test_forecasts_for_one_valid_time(browser: Browser, service: JobService) -> None:
    """Each state has its place in the select, its picture and its line, whose valid time others share."""
    starts = ["2024-07-24T00:00", "2024-07-24T06:00"]
    job = service.done(time=None, times=starts, lead_time="0/6/6h", samples=1)
    browser.open(job)
    options = browser.run("return [...document.getElementById('when').options].map(({ text }) => text)")
    assert options == [f"2024-07-24 {start}:00 + {lead} h" for start in ("00", "06") for lead in (0, 6)]
    assert browser.text("when-label") == "Start + lead time (UTC)"
    assert browser.text("result-title") == "2024-07-24 00:00 to 12:00 UTC · 1 member"
    browser.fill("quantity", 1)
    browser.fill("when", 2)
    browser.click_cell(15, 20)
    value = service.get(job, "/points/t2m", row=15, column=20).json()["values"][2][0]
    said = f"2024-07-24 06:00 UTC (2024-07-24 06:00 + 0 h): mean {shown(value)}"
    browser.until(f"document.getElementById('point-summary').textContent.startsWith('{said}')")
    (drawn,) = browser.run(
        "return [...document.querySelectorAll('#chart path.member')].map((path) => path.getAttribute('d'))"
    )
    assert re.fullmatch(r"(M[^ML]+L[^ML]+){2}", drawn)  # a line for each start
    assert browser.run("return document.getElementById('downloads').children.length") == 3
    assert browser.complaints() == []


@browsing
def test_mean_spread_probability_and_wind(browser: Browser, two_times: str) -> None:
    browser.open(two_times)
    browser.fill("quantity", 2)
    for show, title in (
        ("member-1", "10 m wind, member 1"),
        ("mean", "10 m wind: mean of 2 members"),
        ("spread", "10 m wind: spread of 2 members"),
        ("probability", "10 m wind: share of members > 17.2 m/s"),
    ):
        browser.fill("show", show)
        browser.until(f"document.getElementById('fine-title').textContent === '{title}'")
        unit = "%" if show == "probability" else "m/s"
        assert browser.text("fine-range").partition("max ")[2].split(" · ")[0].endswith(f" {unit}")
        legend = browser.run("return [...document.querySelectorAll('#fine-legend text')].at(-1).textContent")
        assert legend == unit
    assert browser.text("coarse-title") == "Coarse input: 10 m wind"
    assert browser.complaints() == []


@browsing
def test_cycling_the_members(browser: Browser, two_times: str) -> None:
    browser.open(two_times)
    browser.press("#play")
    for member in (1, 0):
        browser.until(f"document.getElementById('fine-title').textContent.endsWith('member {member}')")
    browser.press("#play")
    assert browser.run("return document.getElementById('play').ariaPressed") == "false"


@browsing
@pytest.mark.parametrize("size", [PHONE, DESKTOP])
def test_nothing_sticks_out(browser: Browser, two_times: str, size: tuple[int, int]) -> None:
    """The page is as wide as the screen, the text of the chart is of its size, no control is too small."""
    browser.open(two_times, size)
    browser.click_cell(10, 10)
    browser.until("document.querySelector('#chart path.member')")
    assert browser.run("return document.documentElement.scrollWidth") == size[0]
    sizes = browser.run(
        "return [...document.querySelectorAll('#chart text, .legend text')]"
        ".map(text => text.getBoundingClientRect()).map(box => [box.left, box.right, box.height])"
    )
    assert all(0 <= left and right <= size[0] + 1 and 10 < height < 24 for left, right, height in sizes)
    heights = browser.run(
        "return [...document.querySelectorAll('.tools button, .tools select, #order input, #order select')]"
        ".filter(e => e.offsetParent).map(e => e.offsetHeight)"
    )
    assert min(heights) >= (44 if size == PHONE else 36)


@browsing
def test_made_up_weather_is_said_on_the_page_and_on_the_map(
    browser: Browser, service: JobService, two_times: str, tmp_path: Path
) -> None:
    browser.open(two_times)  # the demo's weather, through a model that was not trained on it
    assert browser.run("return document.getElementById('synthetic').hidden") is False
    assert browser.text("synthetic").strip().startswith("SYNTHETIC demo weather: not an observation")
    stamp = browser.run(
        "const c = document.getElementById('fine');"
        "return [...c.getContext('2d').getImageData(44, c.height - 42, 86, 20).data]"
    )
    red = np.reshape(stamp, (-1, 4))[:, :3]
    assert (np.abs(red - [168, 50, 31]).max(axis=1) < 20).sum() > 50


@browsing
def test_a_mistake_is_said_beside_its_field(browser: Browser, service: JobService) -> None:
    before = len(service.client.get(ROOT).json()["jobs"])
    for name, value, says in (
        ("samples", 65, "a whole number from 1 to 64"),
        ("steps", 0, "a whole number from 1 to 100"),
        ("time", "", "a day"),
        ("seed", "x", "a whole number, or nothing"),
    ):
        browser.open()
        browser.until("!document.querySelector('#order button').disabled")
        browser.fill(name, value)
        browser.press("#order button")
        assert browser.text(f"{name}-fault") == says
        assert browser.run("return document.getElementById(arguments[0]).ariaInvalid", name) == "true"
    assert len(service.client.get(ROOT).json()["jobs"]) == before and browser.complaints() == []


@browsing
def test_what_the_service_refuses_is_said_too(browser: Browser) -> None:
    browser.open()
    browser.until("!document.querySelector('#order button').disabled")
    browser.fill("time", "2300-01-01")
    browser.press("#order button")
    assert "1678 and 2261" in browser.until("document.getElementById('times-fault').textContent")
    (complaint,) = browser.complaints()  # the browser's own word on an answer 422
    assert "422" in complaint


@browsing
def test_progress_and_cancelling(package: Path, tmp_path: Path) -> None:
    model = load(package)
    valve = Valve(model)
    valve.allowed.release()  # the warm-up
    with serving(tmp_path, model) as service:
        browser = Browser(service)
        try:
            valve.wait()
            job = service.start(samples=2)
            valve.wait()
            valve.allowed.release()  # one member
            valve.wait()
            browser.open(job, shown=False)
            browser.until(f"document.querySelector('#job-{job} progress')?.value === 0.5")
            assert not browser.run(f"return document.querySelector('#job-{job} button')")  # not its maker
            browser.run("localStorage.setItem(...arguments)", f"token-{job}", service.tokens[job])
            browser.open(job, shown=False)
            browser.until(f"document.querySelector('#job-{job} progress')?.value === 0.5")
            state = f"document.querySelector('#job-{job} .running')"
            assert "50 %" in browser.until(f"{state}?.textContent")
            browser.press(f"#job-{job} button")
            browser.until(f"!document.getElementById('job-{job}')")
            assert service.get(job).status_code == 404
            valve.open()
        finally:
            valve.open()
            browser.driver.quit()


DEAF = """
window.asked = [];
const original = window.fetch.bind(window);
window.fetch = (url, ...rest) => {
  window.asked.push(String(url));
  return String(url).endsWith('/events') ? Promise.reject(new TypeError('cut off')) : original(url, ...rest);
};
"""


@browsing
def test_polling_where_events_do_not_come_through(service: JobService) -> None:
    browser = Browser(service)
    try:
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", source=DEAF)
        browser.open()
        browser.until("!document.querySelector('#order button').disabled")
        browser.press("#order button")
        browser.until("!document.getElementById('shown').hidden")
        asked = browser.run("return window.asked.map(url => url.replace(/[0-9a-f]{32}/, 'ID'))")
        events, polls = asked.index("v1/downscale/ID/events"), asked.index("v1/downscale/ID")
        assert events < polls and asked.count("v1/downscale/ID/events") == 3
        assert browser.complaints() == []
    finally:
        browser.driver.quit()


@browsing
def test_the_key(package: Path, tmp_path: Path) -> None:
    with serving(tmp_path, load(package), api_key="a secret key") as service:
        service.client.headers["authorization"] = "Bearer a secret key"
        job = service.done()
        browser = Browser(service)
        try:
            browser.open(job, shown=False)
            browser.until("!document.getElementById('unlock').hidden")
            browser.fill("key", "a wrong key")
            browser.press("#unlock button")
            browser.until("document.getElementById('key-fault').textContent === 'This key is not accepted.'")
            browser.fill("key", "a secret key")
            browser.press("#unlock button")
            browser.until("!document.getElementById('shown').hidden")
            assert browser.text("result-title").endswith(f"UTC · {ORDER['samples']} members")
        finally:
            browser.driver.quit()
