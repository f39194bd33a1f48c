"""Break each law on purpose and see its test fail: python tests/mutations.py

Each mutation is one change to one file, made in a copy of the tree; the named test must pass before it and
fail after it. Not part of the suite: it takes a few minutes. Exit status 1 where a mutation survives.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAWS, FOLDER = "tests/test_laws.py", "tests/test_run_folder.py"

MUTATIONS = [  # law, what it does, file, old, new, test
    (
        *(1, "dropout draws from wherever the global generator is", "train.py"),
        'torch.manual_seed(stream_seed(config.seed, "dropout", run.step, micro_step, *own_stream))',
        "pass",
        f"{LAWS}::test_law_1_the_same_command_gives_the_same_bits",
    ),
    (
        *(1, "a resume takes this machine's threads and precision", "training/machine.py"),
        "here = replace(self, **kept)",
        "here = replace(self)",
        f"{LAWS}::test_law_1_threads_and_precision_are_recorded_and_restored",
    ),
    (
        *(2, "a checkpoint rounds the weights that it saves", "training/run.py"),
        "return self.model.weights()",
        "return self.model.bfloat16().float().weights()",
        f"{LAWS}::test_law_2_looking_changes_no_weight",
    ),
    (
        *(2, "an evaluation leaves dropout off", "training/evaluate.py"),
        "    model.train(mode)\n",
        "",
        f"{LAWS}::test_law_2_looking_changes_no_weight",
    ),
    (
        *(2, "the plateau rule is steered by every evaluation", "training/lifecycle.py"),
        "run.step % run.config.plateau_interval == 0",
        "run.step % run.config.eval_interval == 0",
        f"{LAWS}::test_law_2_looking_more_often_does_not_steer_the_plateau_rule",
    ),
    (
        *(3, "the noise draws from the global generator", "noise.py"),
        "return self.distribution(row, generator)",
        "return self.distribution(row, None)",
        f"{LAWS}::test_law_3_the_draw_depends_on_nothing_else",
    ),
    (
        *(3, "NoisyTune draws from the global generator", "noise.py"),
        'generator = torch.Generator().manual_seed(stream_seed(seed, "noisytune", number))',
        "generator = None",
        "tests/test_noisytune.py::test_it_draws_from_a_stream_of_its_own",
    ),
    (
        *(4, "a resume takes the weights reached for those that it began from", "training/lifecycle.py"),
        "run.pretrained = load_pretrained(folder, run)",
        "run.pretrained = {name: p.detach().clone() for name, p in run.model.named_parameters()}",
        "tests/test_noisytune.py::test_a_perturbed_run_resumes_to_the_same_bits_and_log_without_its_source",
    ),
    (
        *(3, "sigma 0 counts as the floor", "noise.py"),
        "sigma = self.sigma(step)\n",
        "sigma = max(self.sigma(step), 1e-6)\n",
        f"{LAWS}::test_law_3_sigma_0_is_the_baseline_bit_for_bit",
    ),
    (
        *(3, "seeds and steps are added", "noise.py"),
        'return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1',
        "return seed + sum(counters)",
        "tests/test_noise.py::test_seeds_steps_and_streams_are_mixed_not_added",
    ),
    (
        *(1, "every rank trains on the rows of rank 0", "training/distributed.py"),
        "return slice(self.rank * share, (self.rank + 1) * share)",
        "return slice(0, share)",
        "tests/test_distributed.py::test_two_processes_train_as_one_does",
    ),
    (
        *(3, "each rank adds noise of its own", "train.py"),
        "    noise_norm = control.add_noise(run, grad_norm)",
        "    run.noise.seed = config.seed + run.ranks.rank\n    noise_norm = control.add_noise(run, grad_norm)",
        "tests/test_distributed.py::test_ranks_share_start_noise_and_weights_but_no_dropout_and_skip_the_same_steps",
    ),
    (
        *(4, "a resume forgets the optimizer's moments", "training/run.py"),
        'self.optimizer.load_state_dict(state["optimizer"])',
        "pass",
        f"{LAWS}::test_law_4_stopped_after_any_step",
    ),
    (
        *(4, "a resume forgets what the control keeps", "training/run.py"),
        "        self.control.restore(state)\n",
        "",
        "tests/test_controls.py::test_a_run_with_each_control_differs_and_resumes",
    ),
    (
        *(4, "a resume forgets the loss scale", "training/run.py"),
        'self.scaler.load_state_dict(state["scaler"])',
        "pass",
        f"{LAWS}::test_law_4_the_loss_scale_is_resumed",
    ),
    (
        *(4, "a resume leaves the log's lines of the steps that it does again", "training/run_folder.py"),
        '(event := parse_event(line)) and event["iter"] < step]',
        "parse_event(line)]",
        f"{LAWS}::test_law_4_a_crash_at_every_single_write_resumes_to_the_same_bits",
    ),
    (
        *(4, "a resume begins one step late", "training/run.py"),
        'self.step = self.checked = self.saved = state["step"]',
        'self.step = self.checked = self.saved = state["step"] + 1',
        f"{LAWS}::test_law_4_sigkill_at_random_steps",
    ),
    (
        *(5, "reading a run folder takes torch", "training/run_files.py"),
        "import os\n",
        "import os\nimport torch\n",
        f"{LAWS}::test_law_5_a_run_folder_is_drawn_wherever_it_lies_without_torch",
    ),
    (
        *(5, "the plots ask the model", "analysis/records.py"),
        "import numpy as np\n",
        "import numpy as np\nimport model\n",
        f"{LAWS}::test_law_5_nothing_downstream_is_imported_upstream",
    ),
    (
        *(6, "files are written in place", "data/files.py"),
        'temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")',
        'temporary = path; os = type("", (), {"replace": print, "fsync": print})',
        f"{LAWS}::test_law_6_a_killed_writer_leaves_the_old_file",
    ),
    (
        *(6, "checkpoints are unpickled", "training/run_files.py"),
        "weights_only=True",
        "weights_only=False",
        f"{LAWS}::test_law_6_no_pickle_is_read",
    ),
    (
        *(7, "an unknown option is a KeyError", "config/_load.py"),
        "        raise UserError(\n            f\"{where}: no option is called",
        "        raise KeyError(\n            f\"{where}: no option is called",
        f"{LAWS}::test_law_7_a_mistake_is_one_line_and_status_2",
    ),
    (
        *(7, "the run folder is made before the mistake is found", "training/lifecycle.py"),
        "        corpus = ranks.rank0_first(open_corpus, config, machine)\n",
        "        from training.run_folder import RunFolder\n        RunFolder(config.out_dir).__enter__()\n"
        "        corpus = ranks.rank0_first(open_corpus, config, machine)\n",
        f"{LAWS}::test_law_7_a_mistake_is_one_line_and_status_2",
    ),
    (
        *(4, "a flipped bit of a checkpoint is trained on", "training/run_files.py"),
        "if zipfile.ZipFile(file).testzip():",
        "if False:",
        f"{FOLDER}::test_no_flipped_bit_of_a_checkpoint_is_taken_for_a_weight",
    ),
    (
        *(4, "no checkpoint before the last is kept", "training/run_folder.py"),
        'if name == "last.pt" else None',
        "if False else None",
        f"{FOLDER}::test_a_damaged_last_costs_one_interval_and_one_line",
    ),
    (
        *(4, "a log that has lost lines is resumed in silence", "training/run_folder.py"),
        "if lost or strange:",
        "if False:",
        f"{FOLDER}::test_a_gap_in_the_log_is_said_and_recorded",
    ),
    (
        *(4, "a name may come to the disk after the next one", "data/files.py"),
        "        take_place(temporary, path)\n        sync_folder(path.parent)\n",
        "        take_place(temporary, path)\n",
        f"{FOLDER}::test_a_name_is_on_the_disk_before_the_next_is_written",
    ),
    (
        *(5, "a folder that holds no run is entered", "training/run_folder.py"),
        "        self.check_ours()\n",
        "",
        f"{FOLDER}::test_a_folder_that_holds_no_run_is_refused_untouched",
    ),
    (
        *(5, "a link is written through", "data/files.py"),
        "        temporary.unlink(missing_ok=True)  # a link planted there would be written through\n"
        '        with open(temporary, mode.replace("w", "x"), **options) as file:',
        "        with open(temporary, mode, **options) as file:",
        f"{FOLDER}::test_a_link_at_a_temporary_name_is_not_written_through",
    ),
    (
        *(6, "JSON of another shape is read", "data/files.py"),
        "if shape and (found := misfit(value, shape)):",
        "if (found := shape) is ...:",
        f"{FOLDER}::test_json_of_another_shape_is_refused_or_harmless_everywhere",
    ),
    (
        *(6, "a flipped bit of a JSON file passes", "data/files.py"),
        "if written != crc32(value):",
        "if written is None:",
        f"{FOLDER}::test_a_flipped_bit_in_a_json_file_is_seen",
    ),
    (
        *(7, "a full disk names no file", "data/files.py"),
        "        error.filename = str(path)\n",
        "        pass\n",
        f"{FOLDER}::test_a_full_or_broken_disk_names_the_file_and_loses_nothing",
    ),
    (
        *(7, "a damaged run stops its whole study", "analysis/records.py"),
        "        except (UserError, OSError) as error:\n            leave_out",
        "        except KeyError as error:\n            leave_out",
        f"{FOLDER}::test_one_damaged_run_does_not_stop_a_study",
    ),
]  # fmt: skip


def main():
    survivors = 0
    for law, what, file, old, new, test in MUTATIONS:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "tree"
            shutil.copytree(
                ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "out", "models", "__pycache__")
            )
            before = passes(copy, test)
            source = (copy / file).read_text()
            assert source.count(old) == 1, f"{file} has {source.count(old)} times: {old}"
            (copy / file).write_text(source.replace(old, new))
            after = passes(copy, test)
        killed = before and not after
        survivors += not killed
        said = "fails" if killed else "DOES NOT FAIL" if before else "FAILS WITHOUT IT"
        print(f"law {law}: {what} ({file}): {test.split('::')[1]} {said}", flush=True)
    return 1 if survivors else 0


def passes(tree, test):
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", test]
    return subprocess.run(words, cwd=tree, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
