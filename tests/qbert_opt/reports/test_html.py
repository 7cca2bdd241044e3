"""The HTML report: complete, escaped, self-contained, and alive in a real browser, light and dark, wide and narrow."""

import html
import json
import re
import shutil
import subprocess

import pytest
from optimize_quickly import report_few_budgets

from qbert_opt.evaluation.intervals import Interval
from qbert_opt.reports.html import html_report
from qbert_opt.reports.measurements import MeasuredModel, Measurements
from qbert_opt.spec.allocation import write_allocation

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</title><script>window.evil=1</script><img src=http://127.0.0.1/x onerror=alert(1)>{{ 7*7 }}\"'&"


@pytest.fixture(scope="module")
def page(reference, reference_plan, reference_frontier, car_soc):
    """The report of the README's plan, with everything in it."""
    ours = MeasuredModel("ours", "made up", encoder_bytes=reference_plan.encoder_bytes, loss=Interval(2e-3, 1e-3, 3e-3))
    return html_report(
        reference_plan,
        scores=reference,
        frontier=reference_frontier,
        devices=(car_soc,),
        measured=Measurements(plan=ours, what=("made up",)),
    )


def test_every_matrix_and_every_figure_is_in_it(page, reference_plan):
    """72 rows, 72 cells in the map, one mark for the plan, predicted beside measured, the provenance."""
    assert page.count('data-key="') == 72 * 11
    assert len(re.findall(r'<i class="b\d" style=', page)) == 72
    assert page.count('class="chosen"') == 2  # on the chart for wide screens, and on that for narrow ones
    assert "1e-03" not in page and "0.001 to 0.003" in page
    ratio = 2e-3 / reference_plan.predicted_loss
    assert f"{ratio:.2f}x" in page
    for part in (
        reference_plan.profile.sha256,
        reference_plan.provenance.data_sha256,
        "binds",
        "products with weights",
    ):
        assert part in page


def test_nothing_is_loaded_from_anywhere(page):
    """No address, no second file; the page forbids itself to load any."""
    assert not re.search(r"https?://|src=|@import|url\(|<link|<img", page)
    assert "default-src 'none'" in page


def test_without_scores_or_device_it_says_so(reference_plan):
    page = html_report(reference_plan)
    assert "No frontier: give --scores" in page
    assert "No device: give --device" in page
    assert "Nothing was measured for this report" in page


def test_names_are_text_whatever_they_hold(reference, reference_plan):
    """HTML, scripts and template syntax in names of models, modules and data stay text."""
    first = reference_plan.matrices[0].model_copy(update={"module": EVIL})
    plan = reference_plan.model_copy(
        update={
            "matrices": (first, *reference_plan.matrices[1:]),
            "profile": reference_plan.profile.model_copy(update={"name": EVIL}),
            "provenance": reference_plan.provenance.model_copy(update={"data": EVIL}),
        }
    )
    page = html_report(plan)
    assert page.count("<script>") == 1
    assert "<img" not in page and "{{ 7*7 }}" in page
    assert html.escape("</title><script>") in page


def test_one_point_and_none(reference_frontier, reference_plan):
    found = reference_frontier
    one = html_report(reference_plan, frontier=found.model_copy(update={"points": found.points[:1]}))
    assert 'class="chosen"' in one
    assert "No frontier" in html_report(reference_plan, frontier=found.model_copy(update={"points": ()}))


def test_thousands_of_matrices_stay_small(reference_plan):
    """6,000 matrices: no text in the map, under 6 MB."""

    def repeated(matrices):
        first = [m for m in matrices if m.block == 0]
        return tuple(
            m.model_copy(update={"block": b, "module": m.module.replace(".0.", f".{b}.")})
            for b in range(1000)
            for m in first
        )

    profile = reference_plan.profile
    many, shapes = repeated(reference_plan.matrices), repeated(profile.matrices)
    profile = profile.model_copy(update={"matrices": shapes, "num_blocks": 1000})
    page = html_report(reference_plan.model_copy(update={"matrices": many, "profile": profile}))
    assert re.search(r'<i class="b\d"[^>]*></i>', page) and not re.search(r'<i class="b\d"[^>]*>\d', page)
    assert len(page) < 6_000_000


def test_the_verb_writes_it(cli, tmp_path, reference_plan, monkeypatch):
    report_few_budgets(monkeypatch)
    write_allocation(reference_plan, tmp_path / "plan.json")
    done = cli("report", tmp_path / "plan.json", "-s", "reference", "-d", "car-soc", "-o", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_scores_of_another_model_are_refused(cli, tmp_path, gptq_plan):
    write_allocation(gptq_plan, tmp_path / "plan.json")
    found = cli("report", tmp_path / "plan.json", "-s", "reference", "-o", tmp_path / "r.html")
    assert found.code == 4 and "Give the scores that the plan was solved from" in found.complaint
    assert not (tmp_path / "r.html").exists()


PROBE = """<script>
window.onload = () => {
  const bytes = [...document.querySelectorAll("#matrices th button")].find(b => b.textContent === "bytes");
  const column = bytes.parentElement.cellIndex;
  const read = () => [...document.querySelectorAll("#matrices tbody tr")].map(r => +r.cells[column].dataset.key);
  bytes.click(); const up = read(); bytes.click(); const down = read();
  const tables = [...document.querySelectorAll("table, svg, .map, .verdict")].filter(e => e.getClientRects().length);
  const sticking = tables.filter(e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth)
    .map(e => e.id || e.className.baseVal || e.className);
  const cut = [...document.querySelectorAll("td, th, .map i, .map b")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.slice(0, 60));
  const found = {sticking, cut, up, down, errors: window.errors, width: document.documentElement.scrollWidth,
    inner: innerWidth,
    back: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    soft: getComputedStyle(document.querySelector(".soft")).color, evil: window.evil || 0};
  document.body.innerHTML = ""; document.body.append(JSON.stringify(found));
};
</script></body>"""
ERRORS = "<script>window.errors = []; window.onerror = m => window.errors.push(String(m));</script></head>"


def in_browser(page, folder, *, width, dark):
    """What the probe finds in the page, in a headless browser."""
    folder.mkdir(exist_ok=True)
    probe = page.replace("</head>", ERRORS).replace("</body>", PROBE)
    (folder / "page.html").write_text(probe)
    # a frame, because a browser's own window is never narrower than about 500 pixels; it has loaded after the probe ran
    read = 'onload="document.title = this.contentDocument.body.textContent"'
    frame = f'<iframe width="{width}" height="900" {read} srcdoc="{html.escape(probe)}"></iframe>'
    (folder / "frame.html").write_text(f"<!doctype html><title>-</title>{frame}")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=20000", "--dump-dom", f"file://{folder / 'frame.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title and title[1].startswith("{"), done.stderr[-2000:]
    return json.loads(html.unescape(title[1]))


def contrast(one, other):
    """WCAG 2 contrast of two `rgb(r, g, b)` colours."""

    def luminance(colour):
        parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine; .ci/run installs it")
@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1000, False), (500, True), (360, True)])
def test_in_a_real_browser(page, reference_plan, tmp_path, width, dark):
    """No script error, headings sort both ways, text is readable on its ground, nothing sticks out sideways."""
    found = in_browser(page, tmp_path / "browser", width=width, dark=dark)
    assert found["errors"] == [] and found["evil"] == 0
    sizes = sorted(m.bytes for m in reference_plan.matrices)
    assert found["up"] == sizes and found["down"] == sizes[::-1]
    assert found["sticking"] == [] and found["cut"] == []
    assert found["inner"] <= width and found["width"] <= found["inner"]
    assert contrast(found["ink"], found["back"]) >= 7
    assert contrast(found["soft"], found["back"]) >= 4.5
    assert (sum(map(int, re.findall(r"\d+", found["back"])[:3])) < 200) == dark
