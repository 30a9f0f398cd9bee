"""Notebooks as pages for readers without a kernel and without JavaScript: stored outputs, described pictures, drawn formulae."""

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

from jinja2 import DictLoader
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from lessonlib.figures.style import BLUE, INK

# nbconvert's own page loads scripts, drops the description of a stored picture, and cuts what is wider than a small screen.
TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block notebook_css -%}{%- endblock -%}
{%- block html_head_css -%}<style>{{ resources.page_css }}</style>{%- endblock -%}
{%- block in_prompt -%}{%- endblock -%}
{%- block output_area_prompt -%}{%- endblock -%}
{%- block input -%}{{ cell.source | highlight_code(metadata=cell.metadata) }}{%- endblock -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output{{ ' wide' if output.data['image/png'] | png_width > 760 }}">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
 alt="{{ (output | get_metadata('alt', 'image/png') or '') | escape_html }}">
</div>
{%- endblock -%}
"""

# What is wider than the page gets a bar to move it by: code, printed columns, tables, formulae; on a telephone wide
# pictures too, for shrunk to its width their words could not be read.
CSS = f"""
body {{ margin: 0 auto; padding: 0 16px 4rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; color: {INK};
  background: white; }}
h1, h2, h3 {{ line-height: 1.2; margin: 2em 0 0.5em; }}
a {{ color: #00598C; }}
a.anchor-link {{ display: none; }}
pre, code {{ font: 13.5px/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }}
code {{ overflow-wrap: anywhere; }}
pre code {{ overflow-wrap: normal; }}
pre {{ margin: 0; padding: 8px 10px; overflow-x: auto; }}
.highlight, .jp-RenderedMarkdown pre {{ background: #F6F6F6; border-left: 4px solid {BLUE}; margin: 1em 0 0; }}
.jp-OutputArea-output {{ overflow-x: auto; margin: 0.5em 0; }}
.jp-OutputArea-output pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
img {{ max-width: 100%; height: auto; }}
img.formula, p.formula img {{ max-width: none; }}
p.formula {{ overflow-x: auto; padding: 4px 0; }}
table {{ border-collapse: collapse; font-size: 14px; line-height: 1.35; }}
th, td {{ border-bottom: 1px solid #D0D0D0; padding: 4px 10px 4px 0; text-align: left; vertical-align: top;
  min-width: 3.5em; }}
td:first-child {{ min-width: 8em; }}
@media (max-width: 620px) {{
  .wide img {{ max-width: none; zoom: 0.7; }}
  .wide::before {{ content: "Wider than this screen: move it sideways."; display: block; font-size: 13px; }}
}}
summary {{ cursor: pointer; padding: 2px 0; }}
.k, .kn, .kd, .kc, .ow, .nb, .bp {{ color: #00598C; }}
.k, .kn, .kd {{ font-weight: bold; }}
.c1, .cm, .ch {{ color: #5A5A5A; font-style: italic; }}
.s1, .s2, .sd, .se, .si, .sa {{ color: #9A3D00; }}
.nf, .nc {{ font-weight: bold; }}
"""


class Renderer(IPythonRenderer):
    """nbconvert's renderer of Markdown, with formulae drawn here and not by a script of the page."""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return f'<p class="formula">{formula(body)}</p>'


class Pages(HTMLExporter):
    """A notebook as one HTML file that holds all it needs and runs nothing."""

    def __init__(self, **settings):
        super().__init__(
            extra_loaders=[DictLoader({"page.html.j2": TEMPLATE})], template_file="page.html.j2", **settings
        )
        self.register_filter("png_width", lambda encoded: png_width(base64.b64decode(encoded)))
        self.register_filter("markdown2html", lambda source: MarkdownWithMath(Renderer(escape=False)).render(source))


def png_width(data: bytes) -> int:
    """Pixels from left to right of a PNG file: the first number of its first chunk."""
    return int.from_bytes(data[16:20], "big")


def formula(tex: str) -> str:
    r"""A formula as an image that stands on the line, described by its TeX.

    >>> formula("2^{20}").partition(" style=")[0]
    '<img class="formula" alt="2^{20}"'
    """
    drawn = io.BytesIO()
    depth = math_to_image(f"${' '.join(tex.split())}$", drawn, format="svg", prop=FontProperties(size=11))
    encoded = base64.b64encode(drawn.getvalue()).decode()
    place = f"vertical-align:-{depth:.1f}pt"  # what hangs below the line
    image = (
        f'<img class="formula" alt="{html.escape(tex)}" style="{place}" src="data:image/svg+xml;base64,{encoded}">'
    )
    return f"{image}\u2060"  # the comma behind it begins no line


def page(path: Path) -> str:
    """The HTML of a notebook, from its stored outputs."""
    text, _ = Pages().from_filename(str(path), resources={"page_css": CSS})
    return text


def write_pages(paths: Iterable[Path], directory: Path) -> list[Path]:
    """Write the page of each notebook into the directory; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for path in paths:
        written.append(directory / f"{path.stem}.html")
        written[-1].write_text(page(path), "utf8")
    return written
