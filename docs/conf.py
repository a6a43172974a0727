"""How Sphinx builds this site: ``uv run --group docs sphinx-build -W -b html docs docs/_build/html``."""

from typing import Any

import lightning.pytorch as pl
import torchmetrics
from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.errors import SphinxError
from sphinx.util.nodes import make_refnode
from torch import nn

import lit_aux

project = "lit_aux"
html_show_copyright = False
release = version = lit_aux.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
# The notebook is shown with the outputs that it is kept with: a build takes no fit, and is the same anywhere.
nb_execution_mode = "off"
nb_merge_streams = True
html_theme = "furo"
html_title = "lit_aux"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # below: browsers draw it themselves, without a network

# Markdown that code hosts show in the same way.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# The reference: every public name where users import it from, types without their paths.
default_role = "py:obj"
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Every reference to a name of this project must lead somewhere. Those to other packages cannot: their
# inventories would have to be fetched, and the site builds without a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|concurrent|contextlib|lightning|numpy|os|pathlib|torch|torchmetrics)\..*"),
    ("py:class", "Trainer|Tensor|Optimizer|LRScheduler|ArgsType|Metric|Figure|Axes"),
    # types of single parts that nobody needs to import
    (
        "py:.*",
        r"(.*\.)?(ImageFiles|ResumableLoader|Samples|TaskLoader|InputFormat|FactorFit|FactorSummary|Placement|Draws|Held)",
    ),
    ("py:.*", r"lit_aux\.figures\.results\.FIGURES"),
    ("py:class", r"lit_aux\.trajectories\.\w+\.(Trajectory|Study|Analysis|Factor)"),
    ("py:func", r"lit_aux\.regimes\.sweep_options\.resolved"),
    ("py:.*", r"lit_aux\.models\.\w+\.\w+Objective"),
    ("py:class", r"(lit_aux\.callbacks\._processes\.Brought|FailedMeasurement|.*\.JointLosses)"),
]

# A prompt is no part of a command.
copybutton_prompt_text = "$ "

_LIGHTNING_CALLS = {
    name
    for kind in (pl.Callback, pl.LightningModule, pl.LightningDataModule, torchmetrics.Metric, nn.Module)
    for name in dir(kind)
}


def _skip_hooks(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Lightning and torch call: it is documented there."""
    return True if what == "class" and name in _LIGHTNING_CALLS else None


def _no_factories(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str, returns: str
) -> Any:
    """Write ``...`` for what a dataclass makes anew: with ``<factory>`` in it no signature is parsed."""
    return (arguments.replace("<factory>", "..."), returns) if arguments else None


_AS_WRITTEN: dict[str, list[str]] = {}


def _remember(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Note what is said of a property before napoleon takes the words before a colon for its type."""
    if what in ("property", "attribute"):
        _AS_WRITTEN[name] = list(lines)


def _restore(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Bring it back."""
    lines[:] = _AS_WRITTEN.pop(name, lines)


def _find_public(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead from a name by its file, or by itself, to the one place where it is public."""
    name = node.get("reftarget", "").rpartition(".")[2]
    objects = env.get_domain("py").objects
    found = [full for full in objects if full.rpartition(".")[2] == name and full.count(".") == 2]
    if node.get("refdomain") != "py" or len(found) != 1:
        return None
    entry = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


_MATH = LatexToMathML(annotation=True, fancy_error=False)


def _formula(translator: Any, node: Any) -> None:
    """Write a formula, in a line or on its own, as MathML; what is no formula ends the build."""
    tex, block = node.astext(), node.tagname == "math_block"
    try:
        formula = _MATH.convert_with_local_state(tex, displaystyle=block)
    except LatexError as error:
        raise SphinxError(f"{node.source}:{node.line}: ${tex}$: {error}") from error
    translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise SkipNode


def setup(app: Any) -> None:
    """Tell Sphinx."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("autodoc-skip-member", _skip_hooks)
    app.connect("autodoc-process-signature", _no_factories)
    app.connect("autodoc-process-docstring", _remember, priority=400)  # napoleon comes at 500
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("missing-reference", _find_public)
