"""How a page of medvl looks, and what keeps it harmless.

A page is one file that needs no network and no font but the reader's own, and reads whole without its script.
Everything that came from data or models passes Jinja's escaping; what is marked safe was made here (figures, styles,
the script). Each template also forbids itself addresses and scripts, but for its own by its hash, in a content security
policy, should something ever slip through.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment(package: str) -> Environment:
    """Jinja for the templates of ``package``: it escapes, and a name that is not there is an error."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def theme() -> str:
    """The style sheet that pages and figures share: colours, and the parts of a figure."""
    return _own_file("theme.css")


def style(more: str = "") -> Markup:
    """All styles of a page, for its ``<style>`` element; ``more`` are those that only one page has."""
    return Markup(theme() + _own_file("page.css") + more)


def script(package: str, name: str) -> tuple[Markup, str]:
    """A script of ``package`` for a plain ``<script>`` element, and what permits it in the content security policy."""
    text = (resources.files(package) / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


def _own_file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
