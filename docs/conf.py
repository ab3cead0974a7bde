"""How the site is built: `sphinx-build -W docs build/site`."""

import pathlib
import re
import shutil

from docutils import nodes

import optareg

HERE = pathlib.Path(__file__).parent

project = "optareg"
author = copyright = "The optareg authors"
version = release = optareg.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    # Formulas without a network.
    "sphinx-mathjax-offline",
]
exclude_patterns = ["images/*", "static/*"]

# Notebooks have a folder of their own in the repository; pages must be in this one.
shutil.rmtree(HERE / "notebooks", ignore_errors=True)  # Of an earlier build.
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks")

# Pages are run when they are built, and an error is one. Notebooks hold their outputs.
nb_execution_mode = "cache"
nb_execution_excludepatterns = ["notebooks/*"]
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_output_stderr = "remove"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 3

# Names between single backticks are looked up, and are code where there is none.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 78
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "optareg"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
}
html_static_path = ["static"]
html_css_files = ["code.css"]
copybutton_exclude = ".linenos, .gp, .go"


def plain_text(app, what, name, obj, options, lines):
    """Docstrings hold formulas as text: their | and * are no markup."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = re.sub(r"(?<!\*)\*(?!\*)|\||(?<=\w)_(?=\W|$)", r"\\\g<0>", line)


# Pages of others. There is no network when the site is built, so no inventories.
OPTAX = "https://optax.readthedocs.io/en/latest/api/"
JAX = "https://docs.jax.dev/en/latest/"
ELSEWHERE = {
    "optax.GradientTransformation": OPTAX + "transformations.html",
    "optax.MaskedNode": OPTAX + "transformations.html",
    "optax.adamw": OPTAX + "optimizers.html#optax.adamw",
    "optax.apply_updates": OPTAX + "apply_updates.html#optax.apply_updates",
    "optax.lbfgs": OPTAX + "optimizers.html#optax.lbfgs",
    "optax.projections": OPTAX + "projections.html",
    "optax.projections.projection_simplex": OPTAX + "projections.html",
    "jax.random": JAX + "jax.random.html",
}
PAGES = {
    "jax": JAX + "_autosummary/{}.html",
    "optax": OPTAX + "generated/{}.html",
}


def elsewhere(app, env, node, contnode):
    """Links names of JAX and of Optax to their own documentation."""
    name = node.get("reftarget", "").removesuffix("()")
    if name.endswith("jaxlib._jax.Array"):  # Its place, not its public name.
        name, contnode = "jax.Array", nodes.emphasis("", "jax.Array")
    package = re.fullmatch(r"(jax|optax)(\.\w+)+", name)
    if package is None:  # Code, not a name.
        return None
    address = ELSEWHERE.get(name, PAGES[package[1]].format(name))
    return nodes.reference("", "", contnode, refuri=address, internal=False)


def setup(app):
    """Registers what Sphinx calls."""
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("missing-reference", elsewhere)
