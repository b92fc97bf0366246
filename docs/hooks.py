"""What MkDocs does besides, to the pages of the site.

Nothing is left to a reader's browser that needs a network: formulas become MathML.
"""

import html
import re

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
INLINE_CODE = re.compile("(?<!<pre>)<code>[^<]+</code>")
LINK_OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, **_) -> str:
    """A link to a file of the repository, which is not on the site, as the file's path."""
    return LINK_OUT_OF_DOCS.sub(_named, markdown)


def on_page_content(content: str, **_) -> str:
    """Formulas in TeX as MathML, and names that may be broken behind underscores and slashes."""
    content = FORMULA.sub(_mathml, content)
    return INLINE_CODE.sub(lambda code: re.sub(r"(?<=\w[_/])(?=\w)", "<wbr>", code[0]), content)


def _named(link: re.Match) -> str:
    text, path = link.groups()
    path_is_enough = text.startswith("`") or link.string[: link.start()].endswith("(")
    return f"`{path}`" if path_is_enough else f"{text} (`{path}`)"


def _mathml(formula: re.Match) -> str:
    element, tex = formula.groups()
    tex = html.unescape(tex).replace("{aligned}", "{align*}")
    mathml = convert(tex, display="block" if element == "div" else "inline")
    if re.search(r"<mi>(\\|&<)", mathml):  # what the converter does not know it passes on
        raise PluginError(f"no MathML for {tex}")
    return re.sub(r"<mi>(?=\w\w)", '<mi mathvariant="normal">', mathml)  # log, and its like
