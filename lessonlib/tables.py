"""A table as the last line of a cell: HTML in a notebook, lines of text elsewhere."""

import html
from collections.abc import Sequence


class Table:
    """Rows of text under named columns; the first column names the row.

    >>> Table(("card", "GB"), [("T4", "16"), ("A100", "80")])
    card | GB
    T4 | 16
    A100 | 80
    """

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence]):
        self.columns, self.rows = tuple(columns), [tuple(map(str, row)) for row in rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"the row {row} has {len(row)} cells; the table has {len(self.columns)} columns"
                )

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        return "\n".join(" | ".join(cells) for cells in (self.columns, *self.rows))

    def _repr_html_(self):
        def line(kind, cells):
            attributes = "style='text-align:left'" + (" scope='col'" if kind == "th" else "")
            return "".join(f"<{kind} {attributes}>{html.escape(cell)}</{kind}>" for cell in cells)

        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        return f"<table><thead><tr>{line('th', self.columns)}</tr></thead><tbody>{body}</tbody></table>"
