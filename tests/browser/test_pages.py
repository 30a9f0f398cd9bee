"""Readers without a kernel, without JavaScript: each notebook as a page, opened wide and as narrow as a telephone."""

import itertools
from html.parser import HTMLParser

import nbformat
import pytest

from tools.pages import page as page_of
from tools.pages import write_pages

pytestmark = pytest.mark.browser

WIDTHS = (1280, 390)

# What a reader would see of each element; every list should be empty but those of images and headings.
LOOK = r"""() => {
  const wide = document.documentElement.clientWidth;
  const name = el => `${el.tagName.toLowerCase()}.${el.className}: ${(el.innerText || el.alt || '').slice(0, 60)}`;
  const styles = el => getComputedStyle(el);
  const scrolls = el => { for (; el && el !== document.body; el = el.parentElement)
    if (['auto', 'scroll'].includes(styles(el).overflowX)) return true; return false; };
  const channel = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = colour => colour.match(/[\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = numbers(colour).map(v => channel(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = el => { for (; el; el = el.parentElement) { const c = styles(el).backgroundColor;
    if ((numbers(c)[3] ?? 1) > 0) return c; } return 'rgb(255, 255, 255)'; };
  const contrast = el => { const a = light(styles(el).color) + 0.05, b = light(ground(el)) + 0.05;
    return Math.max(a, b) / Math.min(a, b); };
  const words = el => [...el.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  const seen = [...document.body.querySelectorAll('*')].filter(el => el.checkVisibility());
  const boxes = seen.filter(el => styles(el).display !== 'inline');
  return {
    page: [document.documentElement.scrollWidth, wide],
    cut: boxes.filter(el => ['hidden', 'clip'].includes(styles(el).overflowX) && el.scrollWidth > el.clientWidth + 1).map(name),
    beyond: boxes.filter(el => !scrolls(el) && el.getBoundingClientRect().right > wide + 1).map(name),
    empty: seen.filter(el => el.matches('.jp-OutputArea-output, td:first-child, th') && !el.matches('thead th:first-child') &&
      !el.innerText.trim() && !el.querySelector('img, svg')).map(name),
    faint: seen.filter(el => words(el) && contrast(el) < 4.5).map(el => `${contrast(el).toFixed(1)} ${name(el)}`),
    widgets: seen.filter(el => words(el) && /\b[HV]Box\(|children=\(|<.*object at 0x/.test(el.innerText)).map(name),
    images: [...document.images].map(image => ({
      alt: image.alt, formula: image.classList.contains('formula'), natural: image.naturalWidth,
      width: image.getBoundingClientRect().width, seen: image.checkVisibility()})),
    headings: [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(el => Number(el.tagName[1])),
  };
}"""


def look(browser, file, width: int) -> dict:
    """What is seen of a page at a width, with JavaScript off; what measures it comes from outside of the page."""
    context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(file.as_uri())
        return page.evaluate(LOOK)
    finally:
        context.close()


def faults(seen: dict) -> list[str]:
    """What is wrong with a page, in words."""
    found = [f"{kind}: {name}" for kind in ("cut", "beyond", "empty", "faint", "widgets") for name in seen[kind]]
    inner, width = seen["page"]
    if inner > width:
        found.append(f"the page is {inner} pixels wide, the window {width}")
    for image in seen["images"]:
        if not (image["natural"] and image["width"] > 3 and image["seen"]):
            found.append(f"an image that is not there: {image['alt'][:60]}")
        if not image["formula"] and image["width"] < 0.45 * image["natural"]:
            found.append(f"words too small: {image['natural']} pixels on {image['width']:.0f}: {image['alt'][:60]}")
        if not image["alt"] or (not image["formula"] and len(image["alt"]) < 40):
            found.append(f"an image without a description: {image['alt']!r}")
    levels = seen["headings"]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in itertools.pairwise(levels)):
        found.append(f"headings out of order: {levels}")
    return found


def test_a_reader_without_a_kernel_sees_everything_wide_and_narrow(browser, path, tmp_path):
    (file,) = write_pages([path], tmp_path)
    assert "<script" not in file.read_text("utf8")
    stored = [
        output.metadata["image/png"]["alt"]
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    for width in WIDTHS:
        seen = look(browser, file, width)
        assert faults(seen) == []
        assert [image["alt"] for image in seen["images"] if not image["formula"]] == stored


BAD = {
    "cut": '<div style="overflow:hidden; width:60px; white-space:nowrap">a text that is wider than its box</div>',
    "beyond": '<div style="width:3000px">wide</div>',
    "empty": '<div class="jp-OutputArea-output"></div>',
    "faint": '<p style="color:#999">too faint</p>',
    "widgets": "<pre>VBox(children=(IntSlider(value=1),))</pre>",
    "an image that is not there": '<img alt="A picture of three bars that nobody can see here." src="data:image/png;base64,AAAA">',
    "words too small": '<img alt="A picture of three bars, drawn wide and shown small." style="width:300px" src="data:image/svg+xml,'
    "%3Csvg xmlns='http://www.w3.org/2000/svg' width='900' height='300'/%3E\">",
    "an image without a description": '<img alt="" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">',
    "headings out of order": "<h4>too deep</h4>",
}


@pytest.mark.parametrize("fault", list(BAD))
def test_each_fault_is_seen(browser, fault, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(f'<!DOCTYPE html><meta charset="utf-8"><h1>One</h1><p>Right.</p>{BAD[fault]}', "utf8")
    assert any(found.startswith(fault) for found in faults(look(browser, file, 390))), fault
    file.write_text('<!DOCTYPE html><meta charset="utf-8"><h1>One</h1><p>Right.</p>', "utf8")
    assert faults(look(browser, file, 390)) == []


def test_scripts_are_really_off(browser, tmp_path):
    file = tmp_path / "script.html"
    file.write_text("<!DOCTYPE html><h1>One</h1><script>document.body.append('written by a script')</script>", "utf8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert "written by" not in page.locator("body").inner_text()
    context.close()


def test_formulae_are_drawn_and_described(tmp_path):
    cell = nbformat.v4.new_markdown_cell(
        "# One\n\nWith $x^2$, and:\n\n$$h = \\frac{\\alpha}{r} B A x$$\n\nfor 5 \\$ it is `a$b`."
    )
    path = tmp_path / "one.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    made = page_of(path)
    assert 'alt="x^2"' in made and r'alt="h = \frac{\alpha}{r} B A x"' in made
    assert made.count('class="formula"') == 3 and "a$b" in made and "$$" not in made


def test_no_description_can_leave_its_attribute(tmp_path):
    alt = 'Bars of "this" & <b>that</b>, 3 and 5 GB, and a quotation mark at the end: "'
    metadata = {"image/png": {"alt": alt}}
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=metadata)
    cell = nbformat.v4.new_code_cell("play", outputs=[output], execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "one.ipynb")
    alts = []

    class Images(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                alts.append(dict(attributes)["alt"])

    Images().feed(page_of(tmp_path / "one.ipynb"))
    assert alts == [alt]
