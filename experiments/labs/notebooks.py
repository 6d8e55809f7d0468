"""Labs as notebooks: written for a student through Jupytext, and read back as a script without it."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.labs.catalogue import GLOSSARY, LABS, Lab
from privacy.errors import ConfigError

INSTALL = 'python -m pip install "fedveil[labs]"'
NOTEBOOK = ".ipynb"
ENDINGS = (NOTEBOOK, ".py")
SHELL = ("%", "!")  # lines that only Jupyter understands


def write(lab: Lab, folder: Path) -> Path:
    """Write a lab as a notebook into a folder, with the glossary beside it, and return its path.

    Raises:
        ConfigError: Jupytext is not installed, the folder cannot be written, or it has this notebook already.
    """
    notebook = notebook_of(lab)
    file = folder / f"{lab.stem}{NOTEBOOK}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(notebook)
        if not (folder / GLOSSARY.name).exists():
            shutil.copyfile(GLOSSARY, folder / GLOSSARY.name)
    except FileExistsError as error:
        allowed = "is there already: move it away, or name another folder with --folder"
        raise ConfigError.of("lab open", error.filename, allowed) from None
    except OSError as error:
        raise ConfigError.of("--folder", folder, f"cannot be written: {error.strerror}") from None
    return file


def notebook_of(lab: Lab) -> str:
    """The text of an .ipynb file.

    Raises:
        ConfigError: Jupytext is not installed.
    """
    try:
        jupytext = import_module("jupytext")
    except ImportError:
        raise ConfigError(f"fedveil lab open: Jupytext is not installed: {INSTALL}") from None
    notebook = jupytext.reads(lab.text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata["fedveil"] = {"lab": lab.number}
    return str(jupytext.writes(notebook, fmt="ipynb"))


def script_of(file: Path) -> str:
    """The code of a student's file, whose answers may differ from what its cells have shown.

    Raises:
        ConfigError: there is no such file, it is neither a notebook nor a script, or it is damaged.
    """
    if file.suffix not in ENDINGS:
        raise ConfigError.of("lab check", file, f"must end with {' or '.join(ENDINGS)}")
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError.of("lab check", file, "there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of("lab check", file, f"cannot be read: {error}") from None
    return text if file.suffix != NOTEBOOK else _code(file, text)


def _code(file: Path, text: str) -> str:
    try:
        cells = json.loads(text)["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError.of("lab check", file, "is not a notebook: it must have cells, as JSON") from None
    return "\n\n".join(_python(cell) for cell in code) + "\n"


def _python(cell: str) -> str:
    """A cell without the lines that only Jupyter understands."""
    return "\n".join(f"# {line}" if line.lstrip().startswith(SHELL) else line for line in cell.splitlines())


def lab_of(file: Path, script: str) -> Lab:
    """The lab that a student's file answers: its code says so, whatever the file is called.

    Raises:
        ConfigError: it is none of the labs.
    """
    for lab in LABS:
        if f'questions_of("{lab.name}")' in script:
            return lab
    raise ConfigError.of("lab check", file, 'is none of the labs: the line `check = questions_of("...")` is gone')


def written_line(value: Any) -> str:
    """A value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n"
