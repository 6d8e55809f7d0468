"""Labs: a course of notebooks kept as text, in the percent format that Jupytext, VS Code and Spyder open as cells.

`fedveil lab` lists them, `fedveil lab open N` writes one as a notebook, and `python -m experiments.labs.NAME` runs it
as it is. A question is answered by a value in place of the dots of its `answer_N = ...`, and checked when its cell
runs. The right answers are in `experiments.labs.keys`, so that they do not stand in the student's file.
"""
