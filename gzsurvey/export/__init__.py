"""The bridge between training and survey: one ONNX file with its card."""

from gzsurvey.export.onnx import export

__all__ = ["export"]
