"""infer: from pictures to answers, and from answers to detections."""
