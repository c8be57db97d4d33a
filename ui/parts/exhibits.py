"""Tables and charts as every page shows them, each with its files to save: for a paper, a message, a spreadsheet."""

import functools
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from ui.parts.writing import KINDS, Columns, Sheet, sheet, sheet_of

_CAMERA = "PNG: the camera in the corner of the chart."
_PICTURE = {"format": "png", "scale": 3}


def table(
    shown: Columns, *, name: str, alt: str, about: Mapping[str, str] | None = None, values: Columns | None = None
) -> None:
    """Show a table, and offer it as files.

    Args:
        shown: Cells of Markdown by their heading.
        name: The beginning of a file's name, which no other table or chart of the page has.
        alt: What the table holds, for readers who cannot see it.
        about: What all cells have in common, such as model, card and verdict.
        values: The same as plain numbers and words, for the CSV; one row for each value.
    """
    st.table(shown, border="horizontal", hide_index=True, alt=alt)
    save(sheet(name, shown, about or {}, values))


def chart(
    figure: go.Figure,
    values: Columns,
    *,
    name: str,
    alt: str,
    about: Mapping[str, str] | None = None,
    zoom: bool = False,
) -> None:
    """Show a chart, and offer what it shows as files; its own camera saves the picture.

    Args:
        figure: The chart.
        values: What it shows.
        name: The beginning of a file's name, which no other table or chart of the page has.
        alt: What can be seen, for readers who cannot see it.
        about: What all values have in common, such as model, card and verdict.
        zoom: Whether a part of it can be enlarged.
    """
    st.plotly_chart(figure, key=name, config=_config(name, zoom=zoom), alt=alt)
    save(sheet_of(name, values, about or {}), is_drawn=True)


def save(found: Sheet, *, is_drawn: bool = False) -> None:
    """Offer a table as files.

    Args:
        found: The table.
        is_drawn: Whether a chart beside it saves itself as a picture.
    """
    with st.popover("Save", icon=":material/download:", type="tertiary", key=f"save_{found.name}"):
        for kind, how in KINDS.items():
            if kind == "PNG" and is_drawn:
                st.caption(_CAMERA)
                continue
            st.download_button(
                kind,
                functools.partial(how.written, found),
                f"{found.name}.{how.ending}",
                how.mime,
                key=f"save_{found.name}_{how.ending}",
                on_click="ignore",
                type="tertiary",
            )


def _config(name: str, *, zoom: bool) -> dict[str, Any]:
    """Return Plotly's toolbar: its camera, and the tools to zoom if the chart can be enlarged."""
    picture = {"displaylogo": False, "toImageButtonOptions": {**_PICTURE, "filename": name}}
    if zoom:
        return {**picture, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
    return {**picture, "modeBarButtons": [["toImage"]], "scrollZoom": False, "doubleClick": False}
