"""Question trees, volunteers' votes, and what concentrations say about them."""

from gzsurvey.votes.fractions import expected_fractions, leading_answer, proportion_asked
from gzsurvey.votes.tree import DecisionTree, Question

__all__ = [
    "DecisionTree",
    "Question",
    "expected_fractions",
    "leading_answer",
    "proportion_asked",
]
