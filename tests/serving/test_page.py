"""The page as a person meets it: in Chromium, on a desk and on a telephone."""

import base64
import json
import shutil
from urllib.parse import urlsplit

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from selenium_axe_python import Axe
from service_process import served

from flowerlib.photos import formats

FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-quic",
    "disable-component-update", "disable-sync", "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream",
)  # fmt: skip


@pytest.fixture(scope="module", params=[(1200, False), (360, True)], ids=["desk", "telephone"])
def running_browser(request):
    """A browser, of a desk's or a telephone's width."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    width, mobile = request.param
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": mobile}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        opened.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": mobile})
        opened.is_telephone = mobile
        yield opened


@pytest.fixture
def browser(running_browser):
    """The browser with empty logs."""
    for kind in ("browser", "performance"):
        running_browser.get_log(kind)
    return running_browser


def elements(browser, selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def element(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def wait_for(browser, condition):
    return WebDriverWait(browser, 30).until(condition)


def open_page(browser, address):
    browser.get(address)
    wait_for(browser, lambda page: "macro F1" in element(page, "#about").text)


def choose(browser, *paths):
    """Choose files; return their cards, in their order, when all are answered."""
    element(browser, "#files").send_keys("\n".join(map(str, paths)))
    return answered_cards(browser, len(paths))


def answered_cards(browser, count):
    wait_for(browser, lambda page: len(elements(page, ".card[aria-busy=false]")) == count)
    return elements(browser, ".card")


@pytest.fixture
def photograph(photographs_of_val):
    return min(photographs_of_val.iterdir())


def has_loaded(browser, image):
    return browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)


def test_a_photograph_is_classified_and_explained(service, browser, photograph, expected):
    classifier, probabilities = expected
    open_page(browser, service)
    (card,) = choose(browser, photograph)
    top = classifier.top(probabilities[photograph.name], 5)
    assert element(card, "h2").text == top[0][0]
    assert element(card, ".explanation").text == f"Bright places support {top[0][0]}."
    rows = [f"{name} {probability:.1%}" for name, probability in top]
    assert [item.text.replace("\n", " ") for item in elements(card, ".predictions li")] == rows
    widths = [item.value_of_css_property("width") for item in elements(card, ".bar, .bar span")]
    for whole, bar, (_, probability) in zip(widths[::2], widths[1::2], top, strict=True):
        assert float(bar[:-2]) == pytest.approx(float(whole[:-2]) * probability, abs=0.1)
    assert (
        element(browser, "#status").get_attribute("textContent")
        == f"{photograph.name}: {', '.join(rows[0].rsplit(' ', 1))}"
    )
    assert all(has_loaded(browser, image) for image in elements(card, "img"))
    nearest = classifier.gallery.nearest(classifier.activation_map(classifier.pixels(photograph)).features, 6)
    similar = [f"{classifier.classes[classifier.gallery.labels[place]]} {cosine:.2f}" for place, cosine in nearest]
    assert [item.text.replace("\n", " ") for item in elements(card, ".similar li")] == similar


def test_the_page_fits_and_asks_nobody_else(service, browser, photograph):
    open_page(browser, service)
    choose(browser, photograph)
    content, window = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert content <= window
    requests = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    sites = {urlsplit(url).netloc for url in requests if not url.startswith(("data:", "blob:"))}
    assert sites == {urlsplit(service).netloc}


def test_several_photographs_are_answered_each_and_errors_stand_beside_theirs(
    service, browser, photographs_of_val, expected, tmp_path
):
    classifier, probabilities = expected
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    first, *others = sorted(photographs_of_val.iterdir())[:6]
    open_page(browser, service)
    broken, *cards = choose(browser, tmp_path / "broken.jpg", first, *others)
    assert element(broken, ".error").text == "`broken.jpg` is no image that Pillow knows"
    assert not element(broken, ".retry").is_displayed()
    for path, card in zip([first, *others], cards, strict=True):
        assert element(card, "figcaption").text == path.name
        assert element(card, "h2").text == classifier.top(probabilities[path.name], 1)[0][0]
        assert not element(card, ".error").is_displayed()


TRANSFER = """
const [name, base64, event] = arguments;
const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
if (name) transfer.items.add(new File([bytes], name));
const options = { bubbles: true, cancelable: true };
const events = {
  drop: () => new DragEvent("drop", { ...options, dataTransfer: transfer }),
  paste: () => new ClipboardEvent("paste", { ...options, clipboardData: transfer }),
};
document.body.dispatchEvent(events[event]());
"""


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_photographs_are_dropped_and_pasted(service, browser, photograph, expected, event):
    classifier, probabilities = expected
    open_page(browser, service)
    browser.execute_script(TRANSFER, photograph.name, base64.b64encode(photograph.read_bytes()).decode(), event)
    (card,) = answered_cards(browser, 1)
    assert element(card, "h2").text == classifier.top(probabilities[photograph.name], 1)[0][0]
    browser.execute_script(TRANSFER, "", "", event)
    assert "no image file" in element(browser, "#notice").text
    assert len(elements(browser, ".card")) == 1


def record_clicks(browser, selector):
    """Count the clicks on a file input in `window.clicks`, and open no file chooser, which a test could not close."""
    script = "window.clicks = 0; arguments[0].onclick = (event) => { event.preventDefault(); window.clicks += 1; }"
    browser.execute_script(script, element(browser, selector))


def test_the_camera_takes_a_photograph(service, browser):
    """Chromium's fake camera shows a green picture with a moving disc."""
    open_page(browser, service)
    if browser.is_telephone:
        assert element(browser, "#capture").get_attribute("capture") == "environment"
        record_clicks(browser, "#capture")
        element(browser, "#camera").click()
        assert browser.execute_script("return window.clicks") == 1
        return
    element(browser, "#camera").click()
    video = element(browser, "#viewfinder video")
    wait_for(browser, lambda page: page.execute_script("return arguments[0].videoWidth", video))
    element(browser, ".shutter").click()
    (card,) = answered_cards(browser, 1)
    assert element(card, "figcaption").text == "camera.jpg"
    assert element(card, "h2").text in ("daisy", "iris", "rose", "lotus")
    assert not element(browser, "#viewfinder").is_displayed()
    assert browser.execute_script("return arguments[0].srcObject", video) is None  # the camera is off


def test_a_viewfinder_that_is_left_switches_the_camera_off(service, browser):
    if browser.is_telephone:
        pytest.skip("telephones bring their own")
    open_page(browser, service)
    for leave in (lambda: element(browser, ".cancel").click(), ActionChains(browser).send_keys(Keys.ESCAPE).perform):
        element(browser, "#camera").click()
        wait_for(browser, lambda page: element(page, "#viewfinder").is_displayed())
        browser.execute_script("window.track = document.querySelector('video').srcObject.getTracks()[0]")
        leave()
        wait_for(browser, lambda page: page.execute_script("return window.track.readyState") == "ended")


def test_the_keyboard_alone_is_enough(service, browser, photograph):
    open_page(browser, service)
    record_clicks(browser, "#files")
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element.text == "Choose photographs"
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return window.clicks") == 1
    (card,) = choose(browser, photograph)
    ActionChains(browser).send_keys(Keys.TAB, Keys.TAB).perform()
    assert browser.switch_to.active_element.accessible_name == "Class activation map"
    overlay = element(card, ".overlay")
    assert overlay.value_of_css_property("opacity") == "0.6"
    ActionChains(browser).send_keys(Keys.HOME).perform()
    assert overlay.value_of_css_property("opacity") == "0"


@pytest.mark.parametrize(("suffix", "format"), [("tif", "TIFF"), ("heic", "HEIF")])
def test_a_format_that_the_browser_cannot_show_is_shown_as_the_network_receives_it(
    service, browser, photograph, expected, tmp_path, suffix, format
):
    if format not in formats.FORMATS:
        pytest.skip(f"Pillow needs a plug-in to read {suffix}")
    classifier, _ = expected
    Image.open(photograph).copy().save(tmp_path / f"flower.{suffix}", format)  # a copy is no JPEG any more
    open_page(browser, service)
    for chooser in ("#files", "#capture"):
        accepted = element(browser, chooser).get_attribute("accept").split(",")
        assert {"image/*", f".{suffix}"} <= set(accepted)
    (card,) = choose(browser, tmp_path / f"flower.{suffix}")
    photo = element(card, ".photo")
    wait_for(browser, lambda page: has_loaded(page, photo))
    assert photo.get_attribute("src").startswith("data:image/png;base64,")
    assert photo.get_property("naturalWidth") == classifier.image_size


def test_a_server_that_cannot_be_reached_is_told_and_asked_again(service, browser, photograph):
    open_page(browser, service)
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*predict*"]})
    (card,) = choose(browser, photograph)
    assert "cannot be reached" in element(card, ".error").text
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    element(card, ".retry").click()
    wait_for(browser, lambda page: elements(page, ".predictions li"))
    assert not element(card, ".error").is_displayed()


def test_a_smoke_tests_model_is_warned_of(service, trained, browser, tmp_path):
    open_page(browser, service)
    assert not element(browser, "#smoke-test").is_displayed()
    shutil.copytree(trained, tmp_path / "run")
    record = tmp_path / "run/model/run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"smoke_test": True}))
    with served(tmp_path / "run", tmp_path) as (address, _):
        open_page(browser, address)
        assert "its predictions mean nothing" in element(browser, "#smoke-test").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(service, browser, photograph, tmp_path, scheme):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    open_page(browser, service)
    red = int(browser.execute_script("return getComputedStyle(document.body).backgroundColor")[4:].split(",")[0])
    assert (red > 128) == (scheme == "light")
    assert violations(browser) == []
    choose(browser, photograph, tmp_path / "broken.jpg")
    assert violations(browser) == []


def violations(browser):
    axe = Axe(browser)
    axe.inject()
    results = axe.run()
    assert len(results["passes"]) > 10
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in results["violations"]]


def test_nothing_on_the_pages_violates_their_security_policy(service, browser, photograph):
    open_page(browser, service)
    choose(browser, photograph)
    browser.get(f"{service}/docs")
    wait_for(browser, lambda page: elements(page, ".opblock-summary-path"))
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_the_documentation_sends_a_photograph(service, browser, photograph, expected):
    classifier, probabilities = expected
    browser.get(f"{service}/docs")
    wait_for(browser, lambda page: elements(page, ".opblock-post"))
    for button in (".opblock-post .opblock-summary-control", ".try-out__btn", ".json-schema-form-item-add", ".execute"):
        wait_for(browser, lambda page, button=button: elements(page, button))
        browser.execute_script("arguments[0].click()", element(browser, button))
        if button == ".json-schema-form-item-add":
            wait_for(browser, lambda page: elements(page, ".opblock-post input[type=file]"))
            element(browser, ".opblock-post input[type=file]").send_keys(str(photograph))
    wait_for(browser, lambda page: elements(page, ".live-responses-table .highlight-code"))
    ((name, _),) = classifier.top(probabilities[photograph.name], 1)
    assert f'"class": "{name}"' in element(browser, ".live-responses-table").text


def test_an_injected_script_does_not_run(service, browser):
    """What the test above relies on: Chromium reports violations."""
    open_page(browser, service)
    script = "document.createElement('script')"
    browser.execute_script(f"document.body.append(Object.assign({script}, {{ text: 'window.injected = 1' }}))")
    assert browser.execute_script("return window.injected") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))
