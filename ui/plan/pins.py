"""The settings that a person overrides: what a widget or the address says of each, and the widget that asks for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import streamlit as st

from specs import METHODS, LorafitError
from ui.parts import given, text
from ui.plan import fields

METHOD_LABELS: Mapping[str, str] = {method.label: name for name, method in METHODS.items()}

_SUGGESTED: Mapping[str, tuple[str, ...]] = {
    "r": ("4", "8", "16", "32", "64", "128", "256"),
    "lora_alpha": ("8", "16", "32", "45", "64", "91", "128"),
    "lora_dropout": ("0", "0.05", "0.1"),
    "max_length": ("256", "512", "1024", "2048", "4096", "8192", "16384", "32768"),
    "per_device_train_batch_size": ("1", "2", "4", "8", "16", "32"),
    "gradient_accumulation_steps": ("1", "2", "4", "8", "16", "32"),
    "learning_rate": ("1e-5", "2e-5", "5e-5", "1e-4", "2e-4", "3e-4", "5e-4", "1e-3"),
    "num_train_epochs": ("1", "2", "3", "4", "5"),
}
"""Values to pick from; any other can be typed."""


_WIDTH = 200
"""Pixels of a widget that stands in a row with others."""
_ALL = "all-linear"
_FORMER_DEFAULT = "Recommended"
"""What addresses said of a method that nobody chose."""


def chosen(modules: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what is overridden, before any widget is drawn: numbers as text, everything else as itself.

    Args:
        modules: The linear modules of the model, if they are known; an address that names others is refused.
    """
    found = {name: _chosen(name, modules) for name in ("method", *fields.ALL)}
    return {name: value for name, value in found.items() if value not in (None, "", ())}


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is overridden in sight while a plan is looked up, so that a wrong value can be changed."""
    try:
        yield
    except LorafitError:
        show_chosen()
        raise


def show_chosen() -> None:
    """Show what is overridden on a page without a plan; only a drawn setting stays in the address."""
    for name in chosen():
        ask(name)


def override(modules: tuple[str, ...]) -> None:
    """Ask for any setting of a page without a plan to edit: what is overridden in sight, all others in a drawer.

    Only a drawn setting stays in the address.
    """
    set_already = chosen()
    if set_already:
        with st.container(horizontal=True, key="overridden", gap="small"):
            for name in set_already:
                with st.container(width=_WIDTH):
                    ask(name, modules=modules)
    with st.expander("Override settings", icon=":material/push_pin:", key="pins", on_change="rerun") as box:
        for group, names in {"Method": ("method",), **fields.GROUPS}.items() if box.open else ():
            shown = [name for name in names if name not in set_already]
            if shown:
                st.markdown(f"**{group}**")
            columns = st.columns(3) if shown else []
            for number, name in enumerate(shown):
                with columns[number % 3]:
                    ask(name, modules=modules)
                    st.caption(fields.MEANINGS[name])


def ask(
    name: str, *, recommended: str = "recommended", modules: tuple[str, ...] = (), bare_width: int | None = None
) -> Any:
    """Ask for one setting; empty follows the recommendation.

    Args:
        name: A field of the plan.
        recommended: What stands in the empty widget.
        modules: The linear modules of the model, for ``target_modules``.
        bare_width: The widget's width in pixels where the name stands beside it; None puts the name above.
    """
    shown: dict[str, Any] = {
        "key": name,
        "bind": "query-params",
        "placeholder": recommended,
        "label_visibility": "collapsed" if bare_width else "visible",
        "width": bare_width or "stretch",
    }
    if name == "target_modules" and modules:
        return _modules_asked(modules, recommended, bare_width)
    if name == "method":
        given.one_of(name, list(METHOD_LABELS))
        return st.selectbox(name, list(METHOD_LABELS), index=None, **shown)
    if options := fields.choices(name):
        given.one_of(name, [text.value(option) for option in options])
        return st.selectbox(name, options, index=None, format_func=text.value, **shown)
    given.expect(name, fields.rule(name))
    if name in _SUGGESTED:
        return st.selectbox(name, _SUGGESTED[name], index=None, accept_new_options=True, **shown)
    return st.text_input(name, value=None, **shown)


def _modules_asked(modules: tuple[str, ...], recommended: str, bare_width: int | None) -> list[str]:
    """Ask for target modules as pills, which lie behind a button with their names where little room is."""
    name, options = "target_modules", (_ALL, *modules)
    given.expect(name, f"must be all-linear, or some of {', '.join(modules)}")
    taken = st.session_state.get(name) or st.query_params.get_all(name)
    shown = text.plain(", ".join(taken)) if taken else f":gray[{text.plain(recommended)}]"
    box = st.popover(shown, key="modules", width=bare_width) if bare_width else st.container()
    with box:
        return st.pills(
            name,
            options,
            selection_mode="multi",
            format_func=text.option,
            key=name,
            bind="query-params",
            on_change=_all_or_some,
            wrap=True,
        )


def _all_or_some() -> None:
    """Let the last click decide between all modules and some."""
    chosen = st.session_state["target_modules"]
    if _ALL in chosen:
        st.session_state["target_modules"] = [_ALL] if chosen[-1] == _ALL else [one for one in chosen if one != _ALL]


def put(name: str, value: Any) -> None:
    """Override a setting from a callback; None follows the recommendation again."""
    if name == "num_gpus":
        st.session_state[name] = value
    elif name == "target_modules":
        st.session_state[name] = [] if value is None else [value] if isinstance(value, str) else list(value)
    elif value is None or name == "method" or fields.choices(name):
        st.session_state[name] = METHODS[value].label if name == "method" and value else value
    else:
        st.session_state[name] = text.value(value)


def _chosen(name: str, modules: tuple[str, ...]) -> Any:
    """Return what is overridden by the widget of a field, or by the address as long as there is no widget."""
    if name in st.session_state:
        value = st.session_state[name]
    elif name in st.query_params:
        value = _of_address(name, modules)
    else:
        return None
    if name == "method":
        return METHOD_LABELS.get(value)
    return _modules(value) if name == "target_modules" else value


def _of_address(name: str, modules: tuple[str, ...]) -> Any:
    """Return a value of the address as its widget would hold it; one that it cannot hold is refused."""
    written = st.query_params.get_all(name)
    rule, value = _read(name, written, modules)
    if value is None:
        given.drop(name)
        if written == [_FORMER_DEFAULT]:
            given.granted(name)
        else:
            given.refuse(name, ", ".join(written), rule)
    return value


def _read(name: str, written: list[str], modules: tuple[str, ...]) -> tuple[str, Any]:
    """Return what a field must be, and the value that its widget takes from the address; None if it takes none."""
    if name == "target_modules":
        known = (_ALL, *modules)
        right = not modules or set(_split(written)) <= set(known)
        return f"must be all-linear, or some of {', '.join(modules)}", written if right else None
    if options := fields.choices(name) or (tuple(METHOD_LABELS) if name == "method" else ()):
        labels = {text.value(option): option for option in options}
        return f"must be one of {', '.join(labels)}", labels.get(written[-1])
    return fields.rule(name), written[-1] if fields.is_written_right(name, written[-1]) else None


def _split(written: list[str]) -> list[str]:
    return [name for entry in written for name in entry.replace(",", " ").split()]


def _modules(value: Any) -> Any:
    """Return target modules as a plan has them; a person may also type their names."""
    names = _split([value] if isinstance(value, str) else list(value or ()))
    return _ALL if _ALL in names else tuple(names)
