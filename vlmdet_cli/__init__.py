"""vlmdet: fine-tune vision-language models for object detection, from COCO data to a metric table."""

__version__ = "0.1.0"
