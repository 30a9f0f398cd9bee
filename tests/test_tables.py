"""The table object, beside html's own parser."""

from html.parser import HTMLParser

import pytest

from lessonlib.display import Table


class Cells(HTMLParser):
    """Collects the text of each cell."""

    def __init__(self, page):
        super().__init__()
        self.found, self.at = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.at = tag if tag in ("th", "td") else None

    def handle_data(self, data):
        if self.at:
            self.found.append((self.at, data))


def test_html_and_text_say_the_same():
    table = Table(("a <b>", "c"), [("1 & 2", 3), ("x", 4.5)])
    assert Cells(table._repr_html_()).found == [
        ("th", "a <b>"), ("th", "c"), ("td", "1 & 2"), ("td", "3"), ("td", "x"), ("td", "4.5"),
    ]  # fmt: skip
    assert repr(table) == "a <b> | c\n1 & 2 | 3\nx | 4.5"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 1 cells; the table has 2 columns"):
        Table(("a", "b"), [("1",)])
