"""Running a model file: no torch, only ONNX Runtime and the card inside the file."""

from gzsurvey.inference.predict import Predictions, predict
from gzsurvey.inference.session import OnnxModel
from gzsurvey.outliers import embedding_distance

__all__ = ["OnnxModel", "Predictions", "embedding_distance", "predict"]
