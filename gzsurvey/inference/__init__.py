"""Running a model file: no torch, only ONNX Runtime and the card inside the file."""

from gzsurvey.inference.batch import choose_batch_size
from gzsurvey.inference.predict import Predictions, predict
from gzsurvey.inference.session import OnnxModel
from gzsurvey.outliers import embedding_distance

__all__ = ["OnnxModel", "Predictions", "choose_batch_size", "embedding_distance", "predict"]
