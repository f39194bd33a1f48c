# ruff: noqa: F401 - other rooms import these from here
"""Every option of a run, its checks, and `load(argv)`. No torch.

_options.py has the options of train.py, _classify.py those of training.classify, _load.py reads config files
and command lines, _command.py has what every command does.
"""

from config._command import (
    ROOT,
    Parser,
    UserError,
    command,
    cores,
    counted,
    did_you_mean,
    given,
    is_folder_name,
    quoted,
    run_script,
    user_path,
)
from config._load import (
    KINDS,
    before_torch,
    checked,
    config_path,
    kind_of,
    load,
    read_option,
    recorded,
    run_file,
    settle,
    spin_less,
)
from config._options import (
    NOT_IDENTITY,
    OPTIONS,
    WITHOUT_STEPS,
    Config,
    differences,
    identity,
    options_of,
    source_wanted,
    unlike,
)
