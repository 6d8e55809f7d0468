"""Right and wrong answers to the labs, by eye from what each lab prints, and the files of students who gave them."""

import json
import re
from pathlib import Path

from experiments.labs.catalogue import LABS, Lab
from experiments.labs.notebooks import notebook_of

# each right where the other is wrong; both are Python, as a student types them
RIGHT = {
    "federated_round": {1: "5", 2: "220_840", 3: "2.94", 4: '"apart"', 5: "1", 6: "0.1"},
    "epsilon": {1: "round(-curve['accuracy_points'][0], 1)", 2: '"less"', 3: "16", 4: '"no"'},
    "ckks_sum": {1: "7", 2: "0.5", 3: "2", 4: '"flooded"'},
    "masked_sum": {1: "47", 2: "45", 3: "2", 4: '" Seed "', 5: "4"},
    "shared_median": {1: "222", 2: "(3, 2)", 3: "7", 4: "8", 5: "204", 6: '"median"'},
}
WRONG = {
    "federated_round": {1: "10", 2: "55_210", 3: "1", 4: '"together"', 5: "5", 6: "100"},
    "epsilon": {1: "-1", 2: '"more"', 3: "4", 4: '"yes"'},
    "ckks_sum": {1: "6", 2: "2", 3: "4", 4: '"masked"'},
    "masked_sum": {1: "303", 2: "90", 3: "3", 4: '"key"', 5: "7"},
    "shared_median": {1: "-290", 2: "(2, 3)", 3: "13", 4: "'eight'", 5: "9", 6: '"sum"'},
}


def lab(name: str) -> Lab:
    return next(lab for lab in LABS if lab.name == name)


def answered(text: str, answers: dict[int, str]) -> str:
    """The text of a lab with these answers in place of the dots."""
    for number, answer in answers.items():
        text, replaced = re.subn(rf"^answer_{number} = \.\.\.$", f"answer_{number} = {answer}", text, flags=re.M)
        assert replaced == 1
    return text


def script(name: str, answers: dict[int, str], folder: Path) -> Path:
    """A student's file as text."""
    file = folder / f"{name}.py"
    file.write_text(answered(lab(name).text, answers))
    return file


def notebook(name: str, answers: dict[int, str], folder: Path) -> Path:
    """A student's notebook, with a line that only Jupyter understands."""
    cells = json.loads(notebook_of(lab(name)))
    for cell in cells["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            given = {number: answer for number, answer in answers.items() if f"answer_{number} = ..." in text}
            cell["source"] = answered(text, given).splitlines(keepends=True)
    code = next(cell for cell in cells["cells"] if cell["cell_type"] == "code")
    code["source"] = ["%matplotlib inline\n", *code["source"]]
    file = folder / "mine.ipynb"
    file.write_text(json.dumps(cells))
    return file
