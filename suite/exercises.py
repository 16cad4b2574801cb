"""Tell readers whether their answers to the exercises are right."""


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
