"""A small SVG picture as an HTML image: Streamlit's ``st.html`` takes images, and removes SVG itself. Pure."""

import base64
from html import escape


def picture(shapes: str, *, size: tuple[int, int], alt: str, style: str = "") -> str:
    """Return an image of SVG shapes, stretched to the place that ``style`` gives it.

    Args:
        shapes: SVG elements of this program's own making.
        size: Width and height that the shapes are drawn in.
        alt: A description for readers who cannot see the picture.
        style: CSS of the image; by default it is as large as it was drawn.
    """
    width, height = size
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}' "
        f"preserveAspectRatio='none'>{shapes}</svg>"
    )
    source = base64.b64encode(svg.encode()).decode()
    shown = f" style='{style}'" if style else ""
    return f"<img alt='{escape(alt)}' src='data:image/svg+xml;base64,{source}'{shown}>"
