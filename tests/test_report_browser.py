"""The report in a real browser: it opens from a file, is quiet, sorts, filters, and hostile names do nothing."""

import shutil

import pytest
from made_records import published
from made_reports import HOSTILE, put, search, study, with_pairs

from harness.evidence import tables
from harness.evidence.report import report
from harness.task import MULTILABEL, REGRESSION

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'gfm-harness[browser]'")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver, e.g. Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


@pytest.fixture(scope="module")
def file(browser, tmp_path_factory):
    results = study(tmp_path_factory.mktemp("made") / "results", models=4, tasks=4, seeds=2)
    put(results, HOSTILE, "RBP0", events=[HOSTILE])
    put(results, "<svg/onload=alert(2)>", f"RBP1 {HOSTILE}")
    for model in ("kmer", "bob"):
        put(results, model, "activity", kind=REGRESSION)
        put(results, model, "tissues", kind=MULTILABEL)
    search(results, model=HOSTILE)
    with pytest.MonkeyPatch.context() as changed:
        with_pairs(changed)
        items = [published(model="BERT", task="RBP0"), published(model="<b>x</b>", task="RBP1")]
        changed.setattr(tables, "read_published", lambda: items)
        return report(results, results.parent / "report.html", title=HOSTILE).as_uri()


@pytest.fixture
def page(browser, file):
    """The page, freshly opened in a window for a desk."""
    size(browser, 1280)
    browser.get(file)
    return browser


def size(browser, width, dark=False):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def run(page, code, *arguments):
    return page.execute_script(f"return {code}", *arguments)


def seen(page, what):
    """The texts of the elements that are to be seen."""
    return run(page, f"[...document.querySelectorAll({what!r})].filter(e => e.offsetParent).map(e => e.textContent.trim())")


def column(page, place, table="[data-of=classification]:not([hidden]) table"):
    return seen(page, f"{table} tbody tr > :nth-child({place})")


def test_it_opens_without_a_word_on_the_console(page):
    assert page.get_log("browser") == []
    assert page.title == HOSTILE
    assert run(page, "document.querySelectorAll('#theme:not([hidden]), .find:not([hidden])').length") >= 2


def test_hostile_names_do_nothing(page):
    assert run(page, "document.querySelectorAll('img, script ~ script, [onload], [onerror], iframe, object').length") == 0
    assert run(page, "document.scripts.length") == 1
    assert HOSTILE in seen(page, "main th")
    page.execute_script("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    assert page.get_log("browser") == []  # an open alert would raise here and everywhere


def test_injected_code_would_not_run(page):
    page.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')")
    assert run(page, "window.hacked === undefined")
    assert any("Content Security Policy" in line["message"] for line in page.get_log("browser"))


def test_columns_sort_by_their_values_and_back(page):
    head = page.find_element("css selector", "[data-of=classification]:not([hidden]) th:nth-child(2) button")
    head.click()
    numbers = [float(text.split()[-1]) for text in seen(page, "[data-of=classification]:not([hidden]) tbody td:nth-child(2) b")]
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == 6
    head.click()
    assert [
        float(text.split()[-1]) for text in seen(page, "[data-of=classification]:not([hidden]) tbody td:nth-child(2) b")
    ] == sorted(numbers)
    assert column(page, 2)[-1] == ""  # what has no number stays last
    assert (
        run(page, "document.querySelector('[data-of=classification] th:nth-child(2)').getAttribute('aria-sort')") == "ascending"
    )


def test_the_keyboard_sorts(page):
    from selenium.webdriver.common.keys import Keys

    before = column(page, 1)
    head = page.find_element("css selector", "[data-of=classification]:not([hidden]) th:first-child button")
    head.send_keys(Keys.ENTER)
    rising = column(page, 1)
    head.send_keys(Keys.SPACE)
    assert column(page, 1) == rising[::-1] != before
    assert sorted(rising, key=str.lower)[0] == rising[0]


def test_the_search_keeps_what_it_finds(page):
    box = page.find_element("id", "q")
    box.send_keys("model2")
    assert column(page, 1) == ["model2"]
    assert set(seen(page, "#flags ~ .scroll tbody th")) <= {"model2"}
    assert "of" in page.find_element("id", "hits").text
    box.clear()
    box.send_keys("RBP3")
    assert seen(page, "[data-of=classification]:not([hidden]) thead th")[1:2] == ["RBP3"]
    shown = run(
        page, "[...document.querySelectorAll('figure[data-topic]')].filter(f => f.offsetParent).map(f => f.dataset.topic)"
    )
    assert set(shown) == {"RBP3"}
    box.clear()
    box.send_keys("nothing like it")
    assert page.find_element("id", "hits").text == "nothing found"
    from selenium.webdriver.common.keys import Keys

    box.send_keys(Keys.ESCAPE)
    assert len(column(page, 1)) == 8


def test_any_metric_can_be_chosen(page):
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("css selector", "[data-metrics=classification]")).select_by_value("log_loss")
    assert run(
        page, "[...document.querySelectorAll('[data-of=classification]')].filter(e => e.offsetParent).map(e => e.dataset.metric)"
    ) == ["log_loss"]
    assert run(
        page, "[...document.querySelectorAll('[data-of=regression]')].filter(e => e.offsetParent).map(e => e.dataset.metric)"
    ) == ["spearman"]


def test_a_task_can_be_chosen(page):
    from selenium.webdriver.support.ui import Select

    chosen = Select(page.find_element("css selector", "[data-topics=classification-curves]"))
    chosen.select_by_value("RBP2")
    kinds = run(
        page,
        "[...document.querySelectorAll('[data-part=classification-curves]')].filter(f => f.offsetParent).map(f => f.querySelector('svg').ariaLabel)",
    )
    assert kinds == ["ROC in RBP2", "precision and recall in RBP2", "reliability in RBP2"]
    chosen.select_by_index(0)
    assert len(seen(page, "[data-part=classification-curves]")) == 3 * 5


def test_every_figure_has_an_alternative_text_and_a_size(page):
    chosen = "[...document.querySelectorAll('figure svg')]"
    assert run(
        page,
        f"{chosen}.every(s => s.getAttribute('role') === 'img' && s.ariaLabel.length > 5 && s.querySelector('desc').textContent.length > 10)",
    )
    visible = run(page, f"{chosen}.filter(s => s.closest('figure').offsetParent).map(s => s.getBoundingClientRect().width)")
    assert len(visible) > 20
    assert min(visible) > 150
    assert run(
        page, "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size === document.querySelectorAll('[id]').length"
    )


def test_the_pointer_shows_what_is_under_it(page):
    mark = "document.querySelector('[data-part=classification-curves] svg [data-m] path, [data-part=classification-curves] svg path[data-m]')"
    page.execute_script(f"{mark}.dispatchEvent(new PointerEvent('pointermove', {{bubbles: true, clientX: 50, clientY: 50}}))")
    assert "seed" in page.find_element("id", "tip").text
    assert run(page, "document.body.classList.contains('focus') && document.querySelectorAll('svg .on').length > 1")


def test_a_number_leads_to_how_it_was_made(page):
    link = page.find_element("css selector", "[data-of=classification]:not([hidden]) tbody td a")
    target = link.get_attribute("href").split("#")[1]
    assert not page.find_element("css selector", f"#{target} dl").is_displayed()
    link.click()
    assert page.find_element("css selector", f"#{target} dl").is_displayed()
    assert "learning_rate" in page.find_element("css selector", f"#{target} dl").text


def test_light_and_dark(page):
    def paper():
        return run(page, "getComputedStyle(document.body).backgroundColor")

    assert paper() == "rgb(255, 255, 255)"
    page.find_element("id", "theme").click()
    dark = paper()
    assert dark != "rgb(255, 255, 255)"
    page.find_element("id", "theme").click()
    assert paper() == "rgb(255, 255, 255)"
    size(page, 1280, dark=True)
    assert paper() == "rgb(255, 255, 255)"  # what the reader chose stays
    page.refresh()
    assert paper() == dark


@pytest.mark.parametrize("width", [1280, 400, 320])
def test_only_wide_boxes_scroll_sideways(page, width):
    size(page, width)
    assert run(page, "document.documentElement.scrollWidth") <= width
    page.execute_script("document.querySelectorAll('details').forEach(box => { box.open = true; })")
    assert run(page, "document.documentElement.scrollWidth") <= width
    assert page.get_log("browser") == []
