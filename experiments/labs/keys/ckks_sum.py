"""The answers of lab 4."""

from experiments.labs.questions import Question, near, word

QUESTIONS = {
    1: Question(lambda count, scheme: count == scheme.ciphertexts(26_010), "Divide, and mind the remainder."),
    2: Question(near(0.5, 1e-9), "Look down the column of scales."),
    3: Question(near(2.0, 0.3), "Divide each row by the one above it, and round."),
    4: Question(word("flooded"), "Compare the errors in the table below."),
}
