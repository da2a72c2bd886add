"""Sphinx's settings for the course's pages, which scripts/tools/make_site.py builds."""

import base64
import hashlib
import os
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

_LOG = logging.getLogger(__name__)
REPOSITORY = os.environ["COURSE_REPOSITORY"]

project = "ASR with NeMo and Weights & Biases"
author = "the contributors of the course"
html_title = "ASR with NeMo and W&B"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
mathjax_path = "mathjax/tex-chtml.js"  # a copy on the site; make_site.py puts it there
exclude_patterns = ["jupyter_execute"]
language = "en"

# Notebooks: their committed outputs, and nothing runs
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a level of headings may be passed over, as on the code host

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": ".",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "navbar_start": [],  # the sidebar has the title and the search
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_favicon = "static/icon.svg"
html_static_path = ["static"]
html_css_files = ["course.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_last_updated_fmt = None


def describe_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """Give the pictures in a notebook's outputs the alt texts that stand in the outputs' metadata.

    MyST-NB names a picture by the SHA-256 of its content.
    """
    path = Path(app.env.doc2path(app.env.current_document.docname))
    if path.suffix != ".ipynb":
        return
    texts = {}
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if picture and alt:
                texts[hashlib.sha256(base64.b64decode(picture)).hexdigest()] = alt
    for image in doctree.findall(nodes.image):
        alt = texts.get(Path(image["uri"]).stem)
        if alt:
            image["alt"] = alt
        elif not image.get("alt"):
            _LOG.warning("a picture without alt text: %s", image["uri"], location=image)


def setup(app: Sphinx) -> None:
    """Register what MyST-NB doesn't do."""
    app.connect("doctree-read", describe_pictures)
