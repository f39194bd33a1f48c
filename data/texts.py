"""Tasks of labelled texts: those prepared in data/glue/, and files of one's own. No torch.

A file is a table with the columns label, text and, where each example is a pair, text2:

    .tsv     a line an example, cut at tabs, after a line with the columns' names; quotes are text
    .csv     the same, cut at commas, with quotes as spreadsheets write them
    .jsonl   a JSON object a line, {"label": ..., "text": ..., "text2": ...}

A prepared task is a folder with train.tsv, val.tsv and meta.json (data/meta.py), whose unit is a text and whose
vocabulary are the labels; it has its metric beside.
"""

import csv
import hashlib
import io
import json
import re
import runpy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from config import ROOT, UserError, did_you_mean, quoted, user_path
from data.build import preparing
from data.files import hash_of, shown
from data.meta import FORMAT, read_meta, vocabulary_sha256

COLUMNS = ("label", "text", "text2")
GLUE = ROOT / "data" / "glue"
NAMES = ("cola", "mrpc", "rte", "sst2")
HOLD_OUT = 10  # of a file without another to validate on, one of so many texts


class Example(NamedTuple):
    label: str
    text: str
    text2: str | None = None


@dataclass(frozen=True)
class Task:
    """meta: as a corpus's. train, val: lists of Example. metric: of its score."""

    meta: dict
    train: list
    val: list
    metric: str = "accuracy"

    def targets(self, split):
        """The examples' labels as indices into the meta's vocabulary."""
        index = {label: number for number, label in enumerate(self.meta["vocabulary"])}
        return [index[example.label] for example in getattr(self, split)]


def read_task(name, val_file=None):
    """The Task of a name under data/glue/, prepared now if it is not yet, of a prepared folder, or of a file.

    UserError for any mistake in the files; it names the line.
    """
    path = user_path(name)
    if path.suffix in READERS or path.is_file():
        return own_task(path, val_file and user_path(val_file))
    if val_file:
        raise UserError(
            f"val_file goes with a file of your own, and task={name!r} has its val split: leave it out"
        )
    folder = path if path.is_dir() and (path / "meta.json").is_file() else glue_folder(name)
    return prepared_task(folder)


def glue_folder(name):
    if name not in NAMES:
        raise UserError(
            f"task={name!r} is neither one of {', '.join(NAMES)} nor a file that ends with"
            f" {', '.join(READERS)}{did_you_mean(name, NAMES)}"
        )
    folder = GLUE / name
    if not (folder / "meta.json").is_file():
        with preparing(GLUE):  # several runs may be started at once
            if not (folder / "meta.json").is_file():
                print(f"preparing {name}, as python data/glue/prepare.py {name} does", flush=True)
                runpy.run_path(str(GLUE / "prepare.py"))["main"]([name])
    return folder


def prepared_task(folder):
    meta = read_meta(folder)
    if meta is None or meta["unit"] != "text":
        raise UserError(f"{shown(folder)} holds no prepared task of texts: name another")
    splits = {}
    for name, part in meta["splits"].items():
        path = folder / f"{name}.tsv"
        if not path.is_file() or hash_of(path) != part["sha256"]:
            raise UserError(f"{shown(folder)} has lost or changed {path.name}: prepare it again with --force")
        splits[name] = read_table(path)
    return Task(meta, splits["train"], splits["val"], meta.get("metric", "accuracy"))


def own_task(path, val_path):
    train = read_table(path)
    labels = sorted({example.label for example in train})
    if len(labels) < 2:
        raise UserError(f"{path}: all labels are {labels[0]!r}, and a task has two or more")
    if val_path:
        val = read_table(val_path, labels)
    else:
        train, val = held_out(train)
    if not val:
        raise UserError(f"{path}: {len(train)} texts are too few to validate on a tenth: name a --val_file")
    if (train[0].text2 is None) != (val[0].text2 is None):
        raise UserError(f"{path} and {val_path} have not the same columns: give both text2, or neither")
    files = [path, *([val_path] if val_path else [])]
    source = {"from": " ".join(file.name for file in files), "sha256": " ".join(map(hash_of, files))}
    return Task(meta_of(path.stem, labels, {"train": train, "val": val}, source), train, val)


def held_out(examples):
    """(train, val) of some examples: a draw that depends on their number alone, for labels may come in turn."""
    drawn = np.random.default_rng(len(examples)).permutation(len(examples))[: len(examples) // HOLD_OUT]
    val = {*drawn.tolist()}
    return [[e for n, e in enumerate(examples) if (n in val) == chosen] for chosen in (False, True)]


def meta_of(name, labels, splits, source, **more):
    """The meta of a task. splits: {name: examples}; their SHA-256 is that of `as_tsv`."""
    vocabulary = {"unit": "text", "vocab_size": len(labels), "vocabulary": list(labels)}
    counts = {
        split: {"tokens": len(examples), "sha256": hashlib.sha256(as_tsv(examples)).hexdigest()}
        for split, examples in splits.items()
    }
    digest = {"vocabulary_sha256": vocabulary_sha256(vocabulary)}
    head = {"format": FORMAT, "name": name, **vocabulary, **digest}
    return {**head, "splits": counts, "source": source, **more}


def as_tsv(examples):
    """The bytes of a .tsv with these examples."""
    rows = [COLUMNS if examples[0].text2 is not None else COLUMNS[:2], *examples]
    return "".join("\t".join(filter(None, row)) + "\n" for row in rows).encode()


# Tables.


def read_table(path, labels=None):
    """The Examples of a file. UserError unless it has the columns, each label and text is there, and each label
    is one of `labels`, where they are given."""
    if path.suffix not in READERS:
        raise UserError(f"{path} ends with none of {', '.join(READERS)}, which say how it is read")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}): convert it") from None
    rows = list(READERS[path.suffix](text, path))
    if not rows:
        raise UserError(f"{path} holds no example")
    pairs = "text2" in rows[0][1]
    for number, row in rows:
        if ("text2" in row) != pairs:
            raise UserError(f"{path}, line {number}: some lines have a text2 and others none: give it to all")
    return [example_of(row, f"{path}, line {number}", pairs, labels) for number, row in rows]


def example_of(row, where, pairs, labels):
    """The Example of {column: value}."""
    found = []
    for column in COLUMNS if pairs else COLUMNS[:2]:
        if column not in row:
            raise UserError(f"{where} has no {column}: it has {', '.join(map(str, row)) or 'nothing'}")
        value = row[column]
        if isinstance(value, float) and value.is_integer():  # a label, as pandas writes it
            value = int(value)
        if not isinstance(value, (str, int)):
            raise UserError(f"{where}: its {column} is {quoted(value)}, no text: mend it, or take the line out")
        if not (value := str(value).strip()):
            raise UserError(f"{where}: its {column} is empty: mend it, or take the line out")
        if re.search("[\ud800-\udfff]", value):  # JSON can escape such a half
            raise UserError(f"{where}: its {column} has half of a character: mend it, or take the line out")
        found.append(value)
    if labels and found[0] not in labels:
        raise UserError(f"{where}: the label {quoted(found[0])} is none of the task's: {', '.join(labels)}")
    return Example(*found)


def separated(delimiter, quoting):
    """A reader: yields (line, {column: value}) of a text."""

    def read(text, path):
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a text may be longer than 131,072
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            if missing := [name for name in COLUMNS[:2] if name not in header]:
                has = ", ".join(map(quoted, header)) or "nothing"
                raise UserError(
                    f"{path} has no column {' or '.join(missing)}: its first line names {has}"
                    f" (docs/glue.md has an example)"
                )
            for row in rows:
                if len(row) != len(header) and row:
                    many = f"{len(row)} fields where the first line names {len(header)}"
                    raise UserError(f"{path}, line {rows.line_num}: {many}")
                if row:
                    yield rows.line_num, dict(zip(header, row))
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}") from None

    return read


def objects(text, path):
    """The reader of .jsonl."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is no JSON object")
        yield number, row


READERS = {
    ".tsv": separated("\t", csv.QUOTE_NONE),
    ".csv": separated(",", csv.QUOTE_MINIMAL),
    ".jsonl": objects,
}
