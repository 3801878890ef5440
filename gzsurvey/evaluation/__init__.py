"""How good a checkpoint is: errors, calibration, purity, and the galaxies it gets wrong."""

from gzsurvey.evaluation.evaluate import evaluate
from gzsurvey.evaluation.predict import Mixture
from gzsurvey.evaluation.sample import Given

__all__ = ["Given", "Mixture", "evaluate"]
