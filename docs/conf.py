"""The site: `sphinx-build -W docs docs/_build/html` makes it, from `pip install '.[docs]'`."""

import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from rmsprop_jax.table import dialect_table  # noqa: E402

about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What is kept beside the code that makes it; links don't work through symbolic ones.
for folder in ("notebooks", "benchmarks"):
    only = shutil.ignore_patterns("*.npz", ".*", "__pycache__")
    shutil.copytree(ROOT / folder, ROOT / "docs" / folder, ignore=only, dirs_exist_ok=True)

(ROOT / "docs" / "dialect_table.txt").write_text(dialect_table())

project = about["name"]
author = about["authors"][0]["name"]
release = about["version"]
copyright = author

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"  # of what has none: formulas
nitpicky = False  # names of other libraries are not links

# Notebooks are shown as they were saved: the tests run them.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Types of arguments are said in words; unions of all array types would be longer than the text.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "show_navbar_depth": 1,
    "use_download_button": False,
    "home_page_in_toc": True,
}
if repository := about.get("urls", {}).get("Repository"):
    html_theme_options |= {
        "repository_url": repository,
        "use_repository_button": True,
        "use_issues_button": True,
        "path_to_docs": "docs",
    }
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_context = {"default_mode": "auto"}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def as_restructured_text(app, what, name, obj, options, lines):
    """Makes of a docstring, which is written to be read in a terminal, what Sphinx understands.

    An indented paragraph is a formula and lines between bars are a table: both are shown as they
    stand. An address may end in an underscore.
    """
    made, text, literal = [], 0, None
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            literal = None if literal is not None and indent < literal else literal
            in_table = line.startswith("|")
            if literal is None and (not i or not lines[i - 1].strip()):
                if i and (indent >= text + 4 or in_table):
                    made += [" " * text + "::", ""]
                    literal = indent
                else:
                    text = indent
            elif literal is None and lines[i - 1].strip() in SECTIONS:
                text = indent
            if literal is None:
                line = re.sub(r"^( *)(https?://\S+)$", r"\1`\2 <\2>`__", line)
            line = "    " + line if in_table else line
        made.append(line)
    lines[:] = made


SECTIONS = ("Args:", "Returns:", "Raises:", "Attributes:", "Example:", "References:")


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before napoleon
