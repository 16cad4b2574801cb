"""Tell readers whether their answers to the exercises are right."""

import re

from suite.chapters import ROOT

SOLUTIONS = ROOT / "solutions"
QUESTION = re.compile(r"^## Exercise (\d+)\n\n(.*)", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```python\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def check(answer, right, hint):
    """Print whether an answer is right.

    answer: what the reader's cell leaves; `...` stands for none yet
    right: function that takes the answer and returns whether it is right; if it raises an error,
        the answer is wrong
    hint: what to look at, printed with a wrong answer, and with the error if there is one
    """
    if answer is ...:
        print("Not answered yet.")
        return
    try:
        said = "Right." if right(answer) else f"Not yet: {hint}"
    except Exception as error:
        said = f"Not yet: {hint} ({type(error).__name__}: {' '.join(str(error).split())})"
    print(said)


def check_exercise(chapter, number, names):
    """Run the check of an exercise, as the solutions write it, on the names of a notebook.

    So the right answer does not stand in the chapter, below the cell of the reader's own.
    """
    _, _, its_check, _ = read_solutions(chapter)[number]
    exec(its_check, dict(names))


def read_solutions(chapter):
    """Return {number: (question, answer, check, mistake)} of a chapter, such as "01_prepare_data"."""
    parts = FENCED.split((SOLUTIONS / f"{chapter}.md").read_text(encoding="utf-8"))
    solutions = {}
    for question, answer, its_check, mistake in zip(
        parts[:-1:6], parts[1::6], parts[3::6], parts[5::6], strict=True
    ):
        number, text = QUESTION.search(question).groups()
        solutions[int(number)] = (text.strip(), answer, its_check, mistake)
    return solutions
