"""The page at `/`, in headless Chromium: what a person sees and does."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest

from sdc.retrieve.index.index import Index
from sdc.retrieve.search import search
from sdc.retrieve.search_settings import SearchSettings

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage"""

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here: install Debian's chromium-driver"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with contextlib.closing(_Quits(webdriver.Chrome(options, webdriver.ChromeService(DRIVER)))) as held:
        yield held.driver


class _Quits:
    def __init__(self, driver):
        self.driver, self.close = driver, driver.quit


@pytest.fixture(scope="module")
def gallery(pictures, serve):
    with serve(pictures, "--images", "images") as server:
        yield server


@pytest.fixture
def page(browser, gallery):
    """The page over images, once it shows its examples; afterwards it has logged no error and asked nobody else."""
    address = f"http://127.0.0.1:{gallery.port}/"
    opened = Page(browser, address)
    yield opened
    assert opened.errors() == []
    assert opened.foreign() == []


class Page:
    def __init__(self, browser, address, width=1280):
        self.browser, self.address = browser, address
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(address)
        self.until(lambda: len(self.all("#examples .item")) == 12)

    def until(self, condition):
        return WebDriverWait(self.browser, 120, 0.05).until(lambda _: condition())

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def names(self):
        script = "return [...document.querySelectorAll('#neighbors .name')].map((name) => name.textContent)"
        return self.browser.execute_script(script)

    def drawn(self, selector):
        """Whether the images are there and were decoded."""
        script = "return [...document.querySelectorAll(arguments[0])].map((i) => i.complete && i.naturalWidth)"
        found = self.browser.execute_script(script, selector)
        return bool(found) and all(found)

    def fill(self, selector, text):
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def errors(self):
        """But those of refused requests, which the browser logs of itself."""
        logged = self.browser.get_log("browser")
        return [each["message"] for each in logged if "the server responded with a status of 4" not in each["message"]]

    def foreign(self):
        events = [json.loads(each["message"])["message"] for each in self.browser.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert any(url.startswith(self.address) for url in urls)
        return [url for url in urls if not url.startswith((self.address, "data:", f"blob:{self.address}"))]


def expected(pictures, k=10, **options):
    found = search(SearchSettings(pictures / "db.bin", k=k, **options))
    return [near["id"] for near in found["results"][0]["neighbors"]]


def test_an_uploaded_image_shows_its_neighbours(pictures, page):
    page.until(lambda: "being loaded" not in page.one("#drop-hint").text)
    path = next((pictures / "images").rglob("*.png"))
    page.one("#file").send_keys(str(path))
    page.until(lambda: len(page.names()) == 10)
    assert page.names() == expected(pictures, images=(path,))
    assert page.one("#asked figcaption").text == path.name
    page.until(lambda: page.drawn("#asked img") and page.drawn("#neighbors img"))
    assert page.one("#took").text.startswith("10 of 80 items in ")
    page.fill("#k", "4\t")
    page.until(lambda: len(page.names()) == 4)


def test_a_click_searches_an_example_and_then_its_neighbor(pictures, page):
    page.until(lambda: page.drawn("#examples img"))
    name = page.one("#examples .name").text
    page.one("#examples .item").click()
    page.until(page.names)
    assert page.names() == expected(pictures, ids=(name,))
    assert page.one("#neighbors .facts").text.split() == ["0", "bits", "class", name.split("/")[0].split()[-1]]
    second = page.names()[1]
    page.all("#neighbors .item")[1].click()
    page.until(lambda: page.one("#asked figcaption").text == second)
    page.until(lambda: page.names() == expected(pictures, ids=(second,)))


def test_errors_are_shown_and_go_away(pictures, page):
    page.fill("#id", "class 1/nothing.png\n")
    error = page.one("#error")
    page.until(lambda: "unknown id 'class 1/nothing.png'" in error.text)
    assert error.get_attribute("role") == "alert"
    (pictures / "broken.png").write_bytes(b"no image")
    page.one("#file").send_keys(str(pictures / "broken.png"))
    page.until(lambda: "the image cannot be read" in error.text)
    (pictures / "large.png").write_bytes(b" " * ((8 << 20) + 1))
    page.one("#file").send_keys(str(pictures / "large.png"))
    page.until(lambda: "larger than" in error.text)
    (pictures / "text.txt").write_text("text")
    page.one("#file").send_keys(str(pictures / "text.txt"))
    page.until(lambda: "text.txt is no image" in error.text)
    page.fill("#id", Index.open(pictures / "db.bin").database.names()[0] + "\n")
    page.until(page.names)
    assert not error.is_displayed()


def test_it_fits_a_phone_and_the_keyboard(browser, gallery):
    page = Page(browser, f"http://127.0.0.1:{gallery.port}/", width=390)
    page.one("#examples .item").send_keys("\n")
    page.until(page.names)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) == 390
    unnamed = """return [...document.querySelectorAll("button, input, img")].filter((e) => e.getClientRects().length
        && !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length || e.hasAttribute("alt"))
        ).length"""
    assert browser.execute_script(unnamed) == 0
    assert page.errors() == []


def test_without_images_it_shows_ids(tmp_path, make_set, serve, browser):
    make_set(tmp_path)
    with serve(tmp_path) as server:
        page = Page(browser, f"http://127.0.0.1:{server.port}/")
        assert not page.one("#drop").is_displayed()
        page.fill("#id", "img/0005.png\n")
        page.until(page.names)
        assert page.names() == expected(tmp_path, ids=("img/0005.png",))
        assert page.all("#neighbors img") == []
        assert not page.one("#asked img").is_displayed()
        assert (page.errors(), page.foreign()) == ([], [])
        server.stop()
        page.fill("#id", "img/0006.png\n")
        page.until(lambda: "does not answer" in page.one("#error").text)


def test_a_script_in_an_id_is_only_text(tmp_path, make_set, serve, browser):
    name = "<img src=x onerror=document.title='run'>"
    make_set(tmp_path, ids=[name, *map(str, range(1, 400))])
    with serve(tmp_path, "--images", ".") as server:
        page = Page(browser, f"http://127.0.0.1:{server.port}/")
        page.fill("#id", name + "\n")
        page.until(page.names)
        assert page.names()[0] == name
        browser.execute_async_script(  # ends after another image that cannot be loaded has told so
            "const done = arguments[0], image = new Image(); image.onerror = () => setTimeout(done); image.src = 'x?2'"
        )
        assert browser.title == "sdc · search"
