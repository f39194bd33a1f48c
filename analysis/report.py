"""The pages, filled with the numbers of the records.

    python -m analysis.report [results] [--check]

A page is written by hand under analysis/pages/, where it lies as in the repository, with Jinja2 fields for its
numbers: {{ diff("mechanism", "noise") }} becomes "+0.2412 ± 0.0092 (n = 6)". fields.py has them all. Of a
folder of records of your own, TABLES.md alone is written, into that folder. --check writes nothing, and exits
with status 1 where a page differs from its filled source.
"""

import sys

import jinja2

from analysis import records
from analysis.fields import Fields
from config import ROOT, UserError, run_script, user_path
from data.files import replacing

PAGES, RESULTS = ROOT / "analysis" / "pages", ROOT / "results"
HEAD = "<!-- python -m analysis.report fills this page from {}: change that file, not this one. -->\n"


def main(argv):
    folders = [word for word in argv if not word.startswith("-")]
    if len(folders) > 1 or set(argv) - {*folders, "--check"}:
        raise UserError("one folder of records, and --check, is all that this takes: python -m analysis.report")
    results = user_path(folders[0]) if folders else RESULTS
    filled = fill(records.read([results]), results)
    if "--check" in argv:
        return check(filled)
    for path, text in filled.items():
        with replacing(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        print(f"written: {path}", file=sys.stderr)
    return 0


def fill(found, results, pages=PAGES):
    """{page: its text} of every source, or of TABLES.md alone where the records are not the repository's."""
    ours = results.resolve() == RESULTS
    sources = sorted(pages.rglob("*.md")) if ours else [pages / "results" / "TABLES.md"]
    loader = jinja2.FileSystemLoader(pages)
    options = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(loader=loader, keep_trailing_newline=True, **options)
    fields = Fields(found)
    environment.globals["ours"] = ours
    environment.globals |= {name: getattr(fields, name) for name in dir(fields) if not name.startswith("_")}
    return {place(source, results, pages): text_of(environment, source, pages) for source in sources}


def place(source, results, pages):
    """Where a filled page lies."""
    inside = source.relative_to(pages)
    return results / inside.name if inside.parts[0] == "results" else ROOT / inside


def text_of(environment, source, pages):
    """A source filled; UserError that names it."""
    name = source.relative_to(pages).as_posix()
    try:
        text = environment.get_template(name).render()
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"analysis/pages/{name}, line {error.lineno}: {error.message}") from None
    except (UserError, jinja2.UndefinedError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        what = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(f"analysis/pages/{name}: {what}{error}") from None
    return HEAD.format(f"analysis/pages/{name}") + text


def check(filled):
    """1 where a page is not its filled source, and says which; else 0."""
    stale = [path for path, text in filled.items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(
            f"{path} is not its filled source: run python -m analysis.report, or mend the source",
            file=sys.stderr,
        )
    return 1 if stale else 0


if __name__ == "__main__":
    run_script(main, __doc__)
