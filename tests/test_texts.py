"""Labelled texts: the three forms of a table, what a bad one gets, and the tasks of GLUE."""

import hashlib
import json
import zipfile

import pytest

from config import UserError
from data import download
from data.corpus import Corpus
from data.glue import prepare
from data.texts import read_task

PAIRS = [("yes", "we saw it", "it"), ("no", 'a "quoted" film', "plot, dull")] * 6


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "\n".join("\t".join(row) for row in [("label", "text", "text2"), *PAIRS])),
        ("a.csv", "text,label,text2\n" + 'we saw it,yes,it\n"a ""quoted"" film",no,"plot, dull"\n' * 6),
        ("a.jsonl", "\n".join(json.dumps(dict(zip(("label", "text", "text2"), row))) for row in PAIRS)),
    ],
)
def test_a_file_of_pairs_in_each_form(tmp_path, name, text):
    (tmp_path / name).write_text("\ufeff" + text if name == "a.csv" else text, encoding="utf-8")
    task = read_task(str(tmp_path / name))
    assert {*task.train, *task.val} == {*PAIRS}
    assert (len(task.train), len(task.val)) == (11, 1)
    assert task.meta["vocabulary"] == ["no", "yes"]
    assert task.targets("train")[:2] == [1, 0]


def test_a_text_of_a_file_that_is_validated_on_is_not_trained_on(tmp_path):
    table = tmp_path / "films.tsv"
    texts = [(("good", "bad")[n % 2], f"film {n}", None) for n in range(80)]
    table.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text, _ in texts))
    task = read_task(str(table))
    assert (len(task.train), len(task.val)) == (72, 8)
    assert {*task.train, *task.val} == {*texts}
    other = read_task(str(table), str(table))
    assert len(other.train) == len(other.val) == 80
    assert other.meta["splits"]["train"]["sha256"] != task.meta["splits"]["train"]["sha256"]


TWO = "label\ttext\ngood\tx\nbad\ty\n"
PART = '{"label": 1, "text": "x"}\n{"label": 2, "text": "x", "text2": "y"}\n'
TABLES = {  # files and their texts, and what is said of them
    "label": ({"a.tsv": TWO, "val.tsv": "label\ttext\ngood\tx\nfine\ty\n"}, "line 3.*'fine'"),
    "columns": ({"a.tsv": TWO, "val.tsv": "label\ttext\ttext2\ngood\tx\ty\n"}, "same columns"),
    "few": ({"a.tsv": TWO}, "--val_file"),
    "empty text": ({"a.tsv": "label\ttext\ngood\t\nbad\ty\n"}, "line 2.*text is empty"),
    "no column": ({"a.tsv": "label\tsentence\ngood\tx\n"}, "no column text.*'sentence'"),
    "no header": ({"a.csv": ""}, "no column label or text"),
    "fields": ({"a.csv": "label,text\ngood,a,b\n"}, "line 2.*3 fields"),
    "quotes": ({"a.csv": 'label,text\ngood,"a\n'}, "line 2"),
    "no JSON": ({"a.jsonl": '{"label": 1, "text": "x"}\nnot\n'}, "line 2"),
    "no object": ({"a.jsonl": "[1, 2]\n"}, "line 1"),
    "text2 of some": ({"a.jsonl": PART}, "line 2"),
    "null": ({"a.jsonl": '{"label": 1, "text": null}\n'}, "line 1: its text is None, no text"),
    "a half": ({"a.jsonl": '{"label": 0.5, "text": "x"}\n'}, "line 1: its label is 0.5, no text"),
    "half a character": ({"a.jsonl": r'{"label": 1, "text": "x \ud83d"}'}, "line 1: its text has half"),
    "no text in JSON": ({"a.jsonl": '{"label": 1}\n'}, "line 1 has no text"),
    "not UTF-8": ({"a.tsv": "label\ttext\ngood\t\xe9\n"}, "UTF-8"),
    "one label": ({"a.tsv": "label\ttext\ngood\tx\ngood\ty\n"}, "all labels are 'good'"),
    "nothing": ({"a.tsv": "label\ttext\n"}, "no example"),
}


@pytest.mark.parametrize(("files", "said"), TABLES.values(), ids=TABLES)
def test_a_mistake_in_a_table_is_one_line(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=said) as error:
        read_task(*(str(tmp_path / name) for name in files))
    assert "\n" not in str(error.value)


def test_a_text_of_a_table_may_be_long(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("label,text\n" + f"a,{'good ' * 40_000}\nb,bad\n" * 10)
    assert len(read_task(str(path)).train[0].text) == 199_999


# GLUE's files.

HEAD = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
FILES = {
    "cola_in_domain_train.tsv": 'gj04\t1\t\tThe "sailors" rode.\ngj04\t0\t*\tRode the.\n',
    "cola_in_domain_dev.tsv": "gj04\t1\t\tA.\n",
    "cola_out_of_domain_dev.tsv": "clc\t0\t*\tB.\n",
    "msr_paraphrase_train.txt": f"{HEAD}1\t7\t8\tHe, it.\tIt.\r\n0\t7\t9\tA\tB\r\n",
    "msr_paraphrase_test.txt": f"{HEAD}1\t7\t8\tC\tD\r\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n1\tC\tD\tnot_entailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tE\tF\tentailment\n",
    "stsa.binary.train": "1 a caf\xe9 of a film\n0 dull\x85 it is\n",
    "stsa.binary.dev": "0 never again .\n",
}


@pytest.fixture
def glue(tmp_path, monkeypatch):
    """A folder with made-up files of the publishers, whose hashes the prepare script takes."""
    for name, text in FILES.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1" if name.startswith("stsa") else "utf-8"))
        own = name.replace("RTE/", "rte_")
        monkeypatch.setitem(prepare.SHA256, own, hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path / "source"


def test_the_tasks_of_glue_are_prepared(glue, tmp_path):
    prepare.main([f"--source={glue}"], tmp_path / "glue")
    tasks = {name: read_task(str(tmp_path / "glue" / name)) for name in prepare.TASKS}
    assert {name: task.metric for name, task in tasks.items()} == {
        **{"cola": "matthews", "mrpc": "f1", "rte": "accuracy", "sst2": "accuracy"}
    }
    assert tasks["cola"].train == [("1", 'The "sailors" rode.', None), ("0", "Rode the.", None)]
    assert [example.text for example in tasks["cola"].val] == ["A.", "B."]
    assert tasks["mrpc"].train[0] == ("1", "He, it.", "It.")
    assert tasks["rte"].val == [("entailment", "E", "F")]
    assert tasks["sst2"].train == [("1", "a caf\xe9 of a film", None), ("0", "dull\x85 it is", None)]
    assert str(glue) not in json.dumps(tasks["rte"].meta)


@pytest.mark.parametrize(
    ("words", "change", "said"),
    [
        (["colla"], None, "did you mean 'cola'"),
        (["rte"], ("RTE/dev.tsv", "other"), "SHA-256"),
        (["rte"], ("RTE/dev.tsv", None), r"rte_dev.tsv or RTE/dev.tsv or RTE.zip, and has none for rte"),
    ],
)
def test_a_mistake_in_preparing_is_one_line(glue, tmp_path, words, change, said):
    if change:
        path = glue / change[0]
        path.write_text(change[1]) if change[1] else path.unlink()
    with pytest.raises(UserError, match=said):
        prepare.main([*words, f"--source={glue}"], tmp_path / "glue")
    assert not list(tmp_path.glob("glue/*/meta.json"))


def test_a_zip_that_cannot_be_read_says_what_to_do_and_options_may_stand_anywhere(tmp_path):
    (tmp_path / "RTE.zip").write_bytes(b"half of it")
    with pytest.raises(UserError, match=r"RTE\.zip.*: delete the file if it is a broken download"):
        prepare.main([f"--source={tmp_path}", "rte", "--force"], tmp_path / "glue")
    with pytest.raises(UserError, match="did you mean 'cola'"):
        prepare.main(["rte", "--force", "colla"], tmp_path / "glue")


def test_a_task_is_no_corpus(glue, tmp_path):
    prepare.main(["rte", f"--source={glue}"], tmp_path / "glue")
    with pytest.raises(UserError, match=r"training\.classify --task=.*rte trains on it"):
        Corpus(str(tmp_path / "glue" / "rte"))


def test_what_a_killed_process_left_of_a_task_goes(glue, tmp_path):
    left = [tmp_path / "glue" / name for name in ("rte/.train.tsv.1.tmp", ".RTE.zip.1.tmp")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    prepare.main(["rte", f"--source={glue}"], tmp_path / "glue")
    assert not any(path.exists() for path in left)


def test_a_task_is_taken_from_its_zip_and_prepared_again_where_a_table_is_lost(glue, tmp_path):
    with zipfile.ZipFile(tmp_path / "RTE.zip", "w") as archive:
        for name in ("RTE/train.tsv", "RTE/dev.tsv"):
            archive.write(glue / name, name)
    prepare.main(["rte", f"--source={tmp_path}"], tmp_path / "glue")
    (tmp_path / "glue" / "rte" / "val.tsv").unlink()
    prepare.main(["rte", f"--source={glue}"], tmp_path / "glue")
    assert read_task(str(tmp_path / "glue" / "rte")).val == [("entailment", "E", "F")]


def test_the_advice_without_a_network_names_the_task(glue, tmp_path, monkeypatch):
    def offline(*_):
        raise download.DownloadError("no connection")

    monkeypatch.setattr(download, "download", offline)
    with pytest.raises(UserError, match=r"prepare\.py rte --source=PATH takes its folder"):
        prepare.main(["rte"], tmp_path / "glue")


def test_a_changed_table_of_a_prepared_task_is_found(glue, tmp_path):
    prepare.main(["rte", f"--source={glue}"], tmp_path / "glue")
    with open(tmp_path / "glue" / "rte" / "val.tsv", "a") as file:
        file.write("entailment\tG\tH\n")
    with pytest.raises(UserError, match="prepare it again"):
        read_task(str(tmp_path / "glue" / "rte"))
