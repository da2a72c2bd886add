"""Interactive pieces in a notebook's output: HTML and JavaScript that need neither a kernel nor a network.

Each piece is a JavaScript file in teaching/pieces/, with a function body of two variables: `root`, the element to fill,
and `data`, what Python gave. Where no script runs (an untrusted notebook, a code host's preview), a picture stands in
its place.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from importlib import resources

import jinja2
import matplotlib.pyplot as plt
from IPython.display import HTML, display
from matplotlib.figure import Figure

_FRAME = jinja2.Environment(autoescape=True).from_string(
    """\
<div id="{{ name }}" class="asr-piece">
<style>{{ style | safe }}</style>
<div class="asr-live"></div>
<figure class="asr-still"><img alt="{{ alt }}" src="data:image/png;base64,{{ picture }}"></figure>
<script type="application/json">{{ data | safe }}</script>
<script>
(() => {
    // A notebook may hold an output twice, in its page and in a view of it.
    for (const frame of document.querySelectorAll("#{{ name }}:not([data-ready])")) {
        frame.dataset.ready = "";
        const data = JSON.parse(frame.querySelector('script[type="application/json"]').textContent);
        ((root, data) => {
{{ helpers | safe }}
{{ script | safe }}
        })(frame.querySelector(".asr-live"), data);
        frame.querySelector(".asr-still").hidden = true;
        // JupyterLab takes arrows and letters for its own commands, unless the focused element has this attribute.
        const keep = ({ target, shiftKey, ctrlKey, altKey, metaKey }) => {
            if (!frame.contains(target)) return;
            target.toggleAttribute("data-lm-suppress-shortcuts", !(shiftKey || ctrlKey || altKey || metaKey));
        };
        window.addEventListener("keydown", keep, true); // before JupyterLab, which listens at the document
    }
})();
</script>
</div>"""
)


def piece(name: str, data: Mapping[str, object], figure: Figure, alt: str) -> str:
    """Return an interactive piece as HTML.

    Args:
        name: the piece, a file of teaching/pieces/ without its suffix.
        data: what the piece shows, as JSON can hold it; not text of strangers.
        figure: a still picture of it, for where no script runs; it is closed.
        alt: alt text, a sentence that describes it.
    """
    pieces = resources.files("asr_with_nemo.teaching") / "pieces"
    read = {file: (pieces / file).read_text(encoding="utf-8") for file in ("style.css", "helpers.js", f"{name}.js")}
    # "<" never opens a tag within the script's element.
    values = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    # A digest, not a random number: the same piece makes the same output.
    digest = hashlib.sha256((read[f"{name}.js"] + values).encode()).hexdigest()[:8]
    return _FRAME.render(
        name=f"asr-{name}-{digest}",
        style=read["style.css"],
        alt=alt,
        picture=base64.b64encode(picture.getvalue()).decode(),
        data=values,
        helpers=read["helpers.js"],
        script=read[f"{name}.js"],
    )


def show(name: str, data: Mapping[str, object], figure: Figure, alt: str) -> None:
    """Display an interactive piece; the arguments are those of `piece`."""
    display(HTML(piece(name, data, figure, alt), metadata={"alt": alt}))
